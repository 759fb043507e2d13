package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Imported is what one node made of an archive.
type Imported struct {
	Node   string
	Images []string
	Err    error
}

// ImportImage sends an image archive to the agents of the given nodes, of all nodes when none is named. open is called once
// for each node. The error joins those of all nodes that failed.
func ImportImage[R io.ReadCloser](ctx context.Context, client kubernetes.Interface, nodes []string, open func() (R, error)) ([]Imported, error) {
	if len(nodes) == 0 {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		for _, n := range list.Items {
			nodes = append(nodes, n.Name)
		}
	}
	if len(nodes) == 0 {
		return nil, errors.New("the cluster has no nodes to import the image on")
	}
	results := make([]Imported, len(nodes))
	var g errgroup.Group
	g.SetLimit(4)
	for i, node := range nodes {
		g.Go(func() error {
			images, err := importOn(ctx, client, node, open)
			results[i] = Imported{Node: node, Images: images, Err: err}
			if err != nil {
				return fmt.Errorf("import on %s: %w", node, err)
			}
			return nil
		})
	}
	return results, g.Wait()
}

func importOn[R io.ReadCloser](ctx context.Context, client kubernetes.Interface, node string, open func() (R, error)) ([]string, error) {
	archive, err := open()
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	body, err := client.CoreV1().RESTClient().Post().Resource("nodes").Name(node).SubResource("proxy").
		Suffix("images/import").SetHeader("Content-Type", "application/octet-stream").Body(io.Reader(archive)).Do(ctx).Raw()
	if err != nil {
		return nil, withBody(err, body)
	}
	var names []string
	if err := json.Unmarshal(body, &names); err != nil {
		return nil, fmt.Errorf("the agent's answer: %w", err)
	}
	return names, nil
}

// NodeImage is one image on one node.
type NodeImage struct {
	Node    string   `json:"node"`
	ID      string   `json:"id"`
	Names   []string `json:"names"`
	Digests []string `json:"digests,omitempty"`
	Size    int64    `json:"size"`
}

// ListImages asks every node what it has, sorted by node.
func ListImages(ctx context.Context, client kubernetes.Interface) ([]NodeImage, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var all []NodeImage
	for _, n := range list.Items {
		body, err := client.CoreV1().RESTClient().Get().Resource("nodes").Name(n.Name).SubResource("proxy").
			Suffix("images").Do(ctx).Raw()
		if err != nil {
			return nil, fmt.Errorf("list images on %s: %w", n.Name, withBody(err, body))
		}
		var images []NodeImage
		if err := json.Unmarshal(body, &images); err != nil {
			return nil, fmt.Errorf("list images on %s: the agent's answer: %w", n.Name, err)
		}
		for i := range images {
			images[i].Node = n.Name
		}
		all = append(all, images...)
	}
	return all, nil
}

// withBody puts the agent's own words into an error of the proxy.
func withBody(err error, body []byte) error {
	if text := strings.TrimSpace(string(body)); text != "" && len(text) < 1000 {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}
