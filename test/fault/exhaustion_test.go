package fault

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/cmd/local"
	"mgr/test/cluster"
)

// fresh makes clients with connections of their own.
func (w *World) fresh(t *testing.T) []kubernetes.Interface {
	t.Helper()
	var all []kubernetes.Interface
	for _, cfg := range w.Configs {
		k, _ := newClient(t, cfg)
		all = append(all, k)
	}
	return all
}

var clients atomic.Int64

// newClient does not share connections; hangUp ends them, as does the end of the test.
func newClient(t *testing.T, cfg *rest.Config) (k kubernetes.Interface, hangUp func()) {
	t.Helper()
	own := rest.CopyConfig(cfg)
	own.UserAgent = fmt.Sprint("client ", clients.Add(1))
	own.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext // a transport with a dialer is not shared
	hc, err := rest.HTTPClientFor(own)
	if err == nil {
		k, err = kubernetes.NewForConfigAndClient(own, hc)
	}
	if err != nil {
		t.Fatal(err)
	}
	hangUp = func() { utilnet.CloseIdleConnectionsFor(hc.Transport) }
	t.Cleanup(hangUp)
	return k, hangUp
}

// TestFewFileDescriptors gives a master few file descriptors and opens more connections to it than it can have: it sheds them and
// does not die of it, the others do not notice, and when they are gone it serves again.
func TestFewFileDescriptors(t *testing.T) {
	w := Beside(t, cluster.Options{Name: "fds"})
	id := w.aFollower(t)
	w.Override(t, id, local.Override{Under: []string{"prlimit", "--nofile=120:120", "--"}})
	w.Kill(t, id)
	w.agree(t)
	l := w.StartLoad(t, 2, 8)
	pid := w.PID(t, id)
	ctx, stop := context.WithCancel(t.Context())
	var open sync.WaitGroup
	var served, refused atomic.Int64
	var close []func()
	for range 300 {
		at, end := newClient(t, w.Configs[w.index(id)])
		close = append(close, end)
		open.Go(func() {
			watch, err := at.CoreV1().ConfigMaps(Namespace).Watch(ctx, metav1.ListOptions{})
			if err != nil {
				refused.Add(1)
				return
			}
			served.Add(1)
			for range watch.ResultChan() {
				continue
			}
		})
	}
	l.Await(t, 500)
	stop()
	open.Wait()
	if served.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d connections were served and %d were not: both should happen", served.Load(), refused.Load())
	}
	at, _ := newClient(t, w.Configs[w.index(id)])
	cluster.Eventually(t, 30*time.Second, "the master serves again", func(ctx context.Context) error {
		for _, end := range close { // a connection can be given up when its last stream has ended, which nobody tells
			end()
		}
		_, err := at.CoreV1().ConfigMaps(Namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
	if now := w.PID(t, id); now != pid {
		t.Errorf("the master died of it:\n%s", lastLines(w.Log(t, id), 20))
	}
	t.Logf("120 file descriptors, 300 watches: %d served, %d not; %s", served.Load(), refused.Load(), l.Finish(t))
}

func (w *World) index(id string) int {
	for i := range w.IDs {
		if w.IDs[i] == id {
			return i
		}
	}
	return -1
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

const valueBytes = 4000

// TestLittleMemory bounds a master's memory to hardly more than it has and asks more of it than fits. The kernel may kill it; it
// comes back, all masters have one state, and nothing is lost.
func TestLittleMemory(t *testing.T) {
	w := Beside(t, cluster.Options{Name: "memory"})
	group := filepath.Join("/sys/fs/cgroup/memory", "mgr-fault-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cluster.Eventually(t, 30*time.Second, "the cgroup is empty", func(context.Context) error { return os.Remove(group) })
	})
	limit := filepath.Join(group, "memory.limit_in_bytes")
	if err := os.WriteFile(limit, []byte("256M"), 0o600); err != nil {
		t.Fatal(err)
	}
	lead := w.agree(t)
	t.Cleanup(func() { w.Do(t, lead.ID, "stop") }) // before the group is removed
	w.Override(t, lead.ID, local.Override{Under: []string{"sh", "-c", "echo $$ >" + group + "/cgroup.procs; exec \"$@\"", "sh"}})
	w.Kill(t, lead.ID)
	w.agree(t)
	l := w.StartLoad(t, 2, 8)
	l.Acks.Value = valueBytes
	l.Await(t, 1000)
	var asking sync.WaitGroup
	var shed, broken atomic.Int64
	for range 60 {
		at, _ := newClient(t, w.Configs[w.index(lead.ID)])
		asking.Go(func() {
			for range 4 {
				ask, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := at.CoreV1().ConfigMaps(Namespace).List(ask, metav1.ListOptions{})
				cancel()
				switch {
				case apierrors.IsTooManyRequests(err):
					shed.Add(1)
				case err != nil:
					broken.Add(1)
				}
			}
		})
	}
	asking.Wait()
	f := l.Finish(t)
	failures, err := os.ReadFile(filepath.Join(group, "memory.failcnt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a master in 256 MB asked for 240 lists of ~%d MB at once: %d answered 429, %d broken off, limit reached %s times; %s",
		f.Created*valueBytes>>20, shed.Load(), broken.Load(), strings.TrimSpace(string(failures)), f)
}
