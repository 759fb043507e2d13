package admin

import (
	"context"
	"fmt"
	"net/http"

	"k8s.io/client-go/kubernetes"
)

// ShutdownNode has the node's agent end its pods as if the machine went down, and returns when they have; or calls that off.
func ShutdownNode(ctx context.Context, client kubernetes.Interface, node string, cancel bool) error {
	verb := http.MethodPost
	if cancel {
		verb = http.MethodDelete
	}
	body, err := client.CoreV1().RESTClient().Verb(verb).Resource("nodes").Name(node).SubResource("proxy").Suffix("shutdown").Do(ctx).Raw()
	if err != nil {
		return fmt.Errorf("shutdown of node %s: %w", node, withBody(err, body))
	}
	return nil
}
