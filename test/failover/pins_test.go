package failover

import (
	"context"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
	"mgr/test/fault"
)

// pins are watches that each stay at one master: none of them may end while its master lives.
type pins struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	deaths map[string]int // of a master
	opened int
	closed []string // while its master lived
}

// pinsEach is how many watches stay at each master.
const pinsEach = 10

func pin(t *testing.T, w *fault.World) *pins {
	p := &pins{deaths: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	t.Cleanup(func() { cancel(); p.wg.Wait() })
	for i, at := range w.Kubes {
		for range pinsEach {
			p.wg.Go(func() { p.watch(ctx, w.IDs[i], at) })
		}
	}
	cluster.Eventually(t, 10*time.Second, "the watches are open", func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.opened < pinsEach*len(w.Kubes) {
			return context.DeadlineExceeded
		}
		return nil
	})
	return p
}

// dies is called before a master is killed.
func (p *pins) dies(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaths[id]++
}

func (p *pins) watch(ctx context.Context, id string, at kubernetes.Interface) {
	for ctx.Err() == nil {
		p.mu.Lock()
		lives := p.deaths[id]
		p.mu.Unlock()
		wi, err := at.CoreV1().ConfigMaps(fault.Namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "register"})
		if err != nil {
			cluster.Pause(ctx, 50*time.Millisecond)
			continue
		}
		p.mu.Lock()
		p.opened++
		p.mu.Unlock()
		why := drain(wi)
		p.mu.Lock()
		if ctx.Err() == nil && p.deaths[id] == lives {
			p.closed = append(p.closed, id+": "+why)
		}
		p.mu.Unlock()
	}
}

// drain reads a watch until it ends and says how.
func drain(wi watch.Interface) (why string) {
	defer wi.Stop()
	why = "the stream ended"
	for e := range wi.ResultChan() {
		if e.Type == watch.Error {
			why = "an error ended it"
		}
	}
	return why
}

// end ends all watches and returns how many there were, and how many closed though their master lived, which fails the test.
func (p *pins) end(t *testing.T) (opened, closed int) {
	t.Helper()
	p.stop()
	p.wg.Wait()
	for _, c := range p.closed {
		t.Errorf("a watch was closed at %s", c)
	}
	return p.opened, len(p.closed)
}
