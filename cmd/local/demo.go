package local

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"mgr/agent/embedded"
	"mgr/cmd/admin"
)

//go:embed demo.yaml
var demoManifest []byte

// demoResult is what the demo showed, for the tour.
type demoResult struct {
	clusterIP, nodePort string // URLs that were fetched
	answer              string
	pods                []corev1.Pod
}

type step = struct {
	title string
	run   func(context.Context, func(string)) error
	limit time.Duration
}

func (u *Up) demoSteps() []step {
	return []step{
		{"demo image on every node", u.importDemo, time.Minute},
		{"demo: 5 pods and 2 services", u.deployDemo, 90 * time.Second},
		{"service answers at its cluster IP and node port", u.fetchDemo, 30 * time.Second},
	}
}

func (u *Up) importDemo(ctx context.Context, _ func(string)) error {
	archive, err := embedded.DemoImage()
	if err != nil {
		return err
	}
	_, err = admin.ImportImage(ctx, u.kube, nil, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive)), nil
	})
	return err
}

// deployDemo applies the manifest as kubectl apply --server-side would and waits for its pods.
func (u *Up) deployDemo(ctx context.Context, detail func(string)) error {
	dyn, err := dynamic.NewForConfig(u.cfg)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(u.kube.Discovery()))
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(demoManifest), 4096)
	want := int64(0)
	for {
		var obj unstructured.Unstructured
		if err := docs.Decode(&obj); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		gvk := obj.GroupVersionKind()
		m, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			return err
		}
		_, err = dyn.Resource(m.Resource).Namespace(obj.GetNamespace()).
			Apply(ctx, obj.GetName(), &obj, metav1.ApplyOptions{FieldManager: "mgr-up", Force: true})
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", gvk.Kind, obj.GetName(), err)
		}
		replicas, _, _ := unstructured.NestedInt64(obj.Object, "spec", "replicas")
		want += replicas
	}
	return until(ctx, func() error {
		pods, err := u.kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var ready int64
		for _, p := range pods.Items {
			if podReady(&p) {
				ready++
			}
		}
		u.demo.pods = pods.Items
		detail(fmt.Sprintf("%d of %d pods ready", ready, want))
		if ready < want {
			return fmt.Errorf("only %d of %d pods became ready: `mgr why pod/NAME` and `mgr describe pods` tell more", ready, want)
		}
		return nil
	})
}

// fetchDemo asks the demo through both of its services.
func (u *Up) fetchDemo(ctx context.Context, detail func(string)) error {
	services := u.kube.CoreV1().Services("default")
	hello, err := services.Get(ctx, "hello", metav1.GetOptions{})
	if err != nil {
		return err
	}
	nodes, err := u.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	port, err := services.Get(ctx, "hello-nodeport", metav1.GetOptions{})
	if err != nil {
		return err
	}
	u.demo.clusterIP = "http://" + hello.Spec.ClusterIP
	last := nodes.Items[len(nodes.Items)-1]
	u.demo.nodePort = fmt.Sprintf("http://%s:%d", address(&last), port.Spec.Ports[0].NodePort)
	for _, url := range []string{u.demo.clusterIP, u.demo.nodePort} {
		detail(url)
		if err := until(ctx, func() (err error) { u.demo.answer, err = fetch(ctx, url); return err }); err != nil {
			return err
		}
	}
	return nil
}

// fetch gets url over a connection of its own, so that each call is balanced anew.
func fetch(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return strings.TrimSpace(string(body)), err
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

func address(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return n.Name
}

// notReadyNodes says which of the wanted nodes are missing or not ready; "" when all are.
func notReadyNodes(ctx context.Context, kube kubernetes.Interface, want int) (string, error) {
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	ready := 0
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if ready < want {
		return fmt.Sprintf("%d of %d nodes ready", ready, want), nil
	}
	return "", nil
}

// Tour says what is running and what to try next.
func (u *Up) Tour() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d masters and %d nodes are up, after %s.\n", u.Spec.Masters, u.Spec.Nodes, seconds(u.began))
	if len(u.demo.pods) > 0 {
		b.WriteString("\n")
		w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "  POD\tNODE\tIP")
		for _, p := range u.demo.pods {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", p.Name, p.Spec.NodeName, p.Status.PodIP)
		}
		w.Flush()
		answer, _, _ := strings.Cut(u.demo.answer, "\n")
		fmt.Fprintf(&b, "\n  %s and %s answer:\n  %s\n", u.demo.clusterIP, u.demo.nodePort, answer)
	}
	b.WriteString("\nNext:\n")
	if exe, err := os.Executable(); err == nil && !inPath(exe) {
		fmt.Fprintf(&b, "  export PATH=%s:$PATH\n", filepath.Dir(exe))
	}
	b.WriteString(tour)
	fmt.Fprintf(&b, "  export KUBECONFIG=%-26s # then kubectl, Helm and the rest work, too\n", u.Kubeconfig)
	b.WriteString("  mgr down                                     # leave nothing behind\n")
	return b.String()
}

// inPath says whether typing the program's name runs it.
func inPath(exe string) bool {
	found, err := exec.LookPath(filepath.Base(exe))
	if err != nil {
		return false
	}
	resolved, err := filepath.EvalSymlinks(found)
	return err == nil && resolved == exe
}

const tour = `  mgr get pods -o wide
  mgr scale deployment hello --replicas 6
  mgr why pod/NAME                             # why it is where it is, or why it waits
  mgr members -o wide                          # the quorum; kill -9 the leader's PID and ask again
  mgr host fail node-2                         # lose a machine; watch 'mgr get pods -o wide -w'
`
