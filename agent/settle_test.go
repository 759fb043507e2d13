package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// lonely is a client of masters that are all away.
func lonely(t *testing.T) kubernetes.Interface {
	t.Helper()
	gone := roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("no master answers") })
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://nowhere", Transport: gone})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return f(r)
}

// TestRestartWithoutMasters: pods known from before are looked after, and one that was being deleted is not brought back to life.
func TestRestartWithoutMasters(t *testing.T) {
	r := newRig(t)
	r.create(testPod("stays"))
	r.create(testPod("goes"))
	r.wait("stays", "stays is ready", ready)
	going := r.wait("goes", "goes is ready", ready)
	holding := make(chan struct{})
	r.runtime.mu.Lock()
	r.runtime.onStop = func(ctx context.Context, _ Container, _ time.Duration) {
		select {
		case <-ctx.Done():
		case <-holding:
		}
	}
	r.runtime.mu.Unlock()
	r.delete("goes", 60)
	path := filepath.Join(r.dir, "pods", string(going.UID), "pod.json")
	r.until("the deletion is written down", func() bool {
		b, err := os.ReadFile(path)
		return err == nil && containsDeletion(b)
	})
	r.stop()
	close(holding)
	masters := r.client
	r.client = lonely(t)
	r.start()
	r.until("goes was ended", func() bool {
		c, _, ok := r.runtime.last("goes", "main")
		return !ok || c.State == ContainerExited
	})
	r.runtime.exit("stays", "main", 7)
	r.stop()
	// With masters again, what happened meanwhile is told, and the deletion is finished.
	r.client = masters
	r.start()
	r.gone("goes")
	r.wait("stays", "its end and restart are told", func(p *v1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return ready(p) && s.RestartCount == 1 && s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 7
	})
}

func containsDeletion(b []byte) bool {
	p := &v1.Pod{}
	return json.Unmarshal(b, p) == nil && p.DeletionTimestamp != nil
}

// TestLeftoversAreRemovedWhenTheRuntimeIsBack: a runtime that does not answer when the agent settles must not mean litter for ever.
func TestLeftoversAreRemovedWhenTheRuntimeIsBack(t *testing.T) {
	r := newRig(t)
	old := r.create(testPod("old"))
	r.wait("old", "old is ready", ready)
	r.stop()
	zero := int64(0)
	if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "old", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	r.network.fail("not now", 2)
	r.start()
	r.until("nothing is left", func() bool {
		_, err := os.Stat(filepath.Join(r.dir, "pods", string(old.UID)))
		s, _ := r.runtime.Sandboxes(t.Context())
		return errors.Is(err, os.ErrNotExist) && len(s) == 0
	})
}
