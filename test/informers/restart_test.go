package informers_test

import (
	"bytes"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/api"
	"mgr/api/apitest"
	"mgr/fsm"
)

// road leads to one server at a time and counts requests for whole states.
type road struct {
	mu    sync.Mutex
	to    http.RoundTripper
	lists int
}

func (w *road) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	to := w.to
	if q := r.URL.Query(); q.Get("watch") == "" || q.Get("sendInitialEvents") == "true" {
		w.lists++
	}
	w.mu.Unlock()
	return to.RoundTrip(r)
}

// nowhere is the way to a master that is down.
type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
}

func (w *road) lead(to http.RoundTripper) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = to
}

func (w *road) asked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lists
}

// TestInformerAcrossARestart: an informer whose master starts again, from a snapshot, goes on with its watch where it was: it sees what
// happened meanwhile and does not list again.
func TestInformerAcrossARestart(t *testing.T) {
	ctx := t.Context()
	before := fsm.New(fsm.Options{})
	raise, err := fsm.EncodeSystem(&fsm.System{Kind: fsm.RaiseLevel, Level: fsm.Newest})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.Apply(1, 1, raise); err != nil {
		t.Fatal(err)
	}
	serve := func(f *fsm.FSM) *apitest.Server {
		return apitest.New(t, func(c *api.Config) { c.Quorum = api.NewBare(f) })
	}
	old := serve(before)
	way := &road{to: old.Config.Transport}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: old.Config.Host, Transport: way, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	inf := informers.NewSharedInformerFactory(client, 0).Core().V1().ConfigMaps().Informer()
	stop := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() { inf.Run(stop) })
	defer ended.Wait()
	defer close(stop)
	until := func(what string, condition func() bool) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(time.Minute); !condition(); <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("waited too long until %s", what)
			}
		}
	}
	until("the informer has listed", inf.HasSynced)
	churn(t, old.Client)
	until("the informer has followed", func() bool { return len(inf.GetStore().ListKeys()) == writers*each/2 })
	lists := way.asked()

	way.lead(nowhere{})
	old.Close()
	// Other masters go on meanwhile; what they write is in the snapshot.
	maps := old.Client.CoreV1().ConfigMaps("default")
	if err := maps.Delete(ctx, "w0-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var snapshot bytes.Buffer
	if err := before.State().WriteSnapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	after := fsm.New(fsm.Options{})
	if err := after.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	way.lead(serve(after).Config.Transport)
	until("the informer has seen what happened meanwhile", func() bool {
		_, late, _ := inf.GetStore().GetByKey("default/late")
		_, gone, _ := inf.GetStore().GetByKey("default/w0-1")
		return late && !gone
	})
	if n := way.asked() - lists; n != 0 {
		t.Errorf("the informer asked for everything again, %d times", n)
	}
}
