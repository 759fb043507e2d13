package api_test

import (
	"context"
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/api/apitest"
)

// TestLoopbackEnds: once the leadership that a client in this process belongs to is over its requests end, also those whose caller has
// no context that does.
func TestLoopbackEnds(t *testing.T) {
	s := apitest.New(t)
	ctx, end := context.WithCancel(t.Context())
	client, err := kubernetes.NewForConfig(s.Loopback(ctx, "bob", []string{"system:masters"}, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := client.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}
