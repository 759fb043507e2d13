package raftnode_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/raftnodetest"
)

// duties records what RunAsLeader does on all peers.
type duties struct {
	mu      sync.Mutex
	running map[string]uint64 // term by peer
	terms   map[uint64]string // peer by term
	wrong   []string
}

// run is the duty of a slow loop: it ends some time after its context.
func (d *duties) run(t *testing.T, p *raftnodetest.Peer) func(context.Context, uint64) {
	return func(ctx context.Context, term uint64) {
		d.mu.Lock()
		if old := d.running[p.ID]; old != 0 {
			t.Errorf("%s begins term %d while term %d still runs", p.ID, term, old)
		}
		if other, ok := d.terms[term]; ok {
			t.Errorf("term %d of %s begins again at %s", term, other, p.ID)
		}
		d.running[p.ID], d.terms[term] = term, p.ID
		d.mu.Unlock()
		<-ctx.Done()
		time.Sleep(300 * time.Millisecond)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.running[p.ID] = 0
	}
}

// TestRunAsLeader cuts leaders off, for shorter and for longer than an election takes, so that they lose and regain
// leadership: the duty runs once for each term, never twice at once on a peer, and runs again in the end.
func TestRunAsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		d := &duties{running: map[string]uint64{}, terms: map[uint64]string{}}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, p := range c.Peers {
			wg.Go(func() { p.Node.RunAsLeader(ctx, d.run(t, p)) })
		}
		for i := range 60 {
			leader := c.Leader()
			if i%3 == 0 {
				c.Cut(leader)
			} else {
				c.Freeze(leader)
			}
			time.Sleep(time.Duration(i*20) * time.Millisecond)
			c.Heal(leader)
		}
		c.Until("the duty runs at the leader's term", func() bool {
			leader := c.Leader()
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.running[leader.ID] == leader.Node.Term()
		})
		cancel()
		wg.Wait()
		if len(d.terms) < 20 {
			t.Errorf("only %d terms", len(d.terms))
		}
	})
}

// TestRunAsLeaderReturnsEarly: a duty that gives up is not called again in the same term, but in the next.
func TestRunAsLeaderReturnsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 1)
		p := c.Peers[0]
		calls := make(chan uint64, 10)
		go p.Node.RunAsLeader(t.Context(), func(_ context.Context, term uint64) { calls <- term })
		<-calls
		time.Sleep(time.Minute)
		if len(calls) != 0 {
			t.Error("the duty was called again in the same term")
		}
	})
}

// TestTransferLeadership moves leadership while writers write: every write is applied once or was refused, and none fails
// in another way.
func TestTransferLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		written := 0
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					r, err := c.Leader().Node.Propose(t.Context(), put(fsm.Update, "x", "1"))
					if err != nil && !errors.Is(err, fsm.ErrNotLeader) || r.Refusal != nil {
						t.Errorf("write during a transfer: %+v, %v", r, err)
					}
					if err == nil {
						mu.Lock()
						written++
						mu.Unlock()
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			from := c.Leader()
			if err := from.Node.TransferLeadership(t.Context()); err != nil {
				t.Fatal(err)
			}
			if to := c.Leader(); to == from {
				t.Errorf("%s still leads after the transfer", from.ID)
			}
		}
		cancel()
		wg.Wait()
		if got := c.Leader().FSM.State().Revision(); int(got) != written+1 {
			t.Errorf("%d writes were acknowledged, but revision is %d", written, got)
		}
	})
}

// TestHungDisk: a leader whose disk hangs steps down although it could still send heartbeats, another leads, and the
// old one follows again once its disk works.
func TestHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := map[string]*raftnode.Hang{}
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Storage: func(id string) *raftnode.Storage {
			s, hang := raftnode.HangingStorage()
			disks[id] = hang
			return s
		}})
		old := c.Leader()
		mustPropose(t, old, put(fsm.Create, "x", "1"))
		disks[old.ID].Set(true)
		start := time.Now()
		if _, err := old.Node.Propose(t.Context(), put(fsm.Update, "x", "lost?")); !errors.Is(err, fsm.ErrUnknown) {
			t.Errorf("write on a hanging disk: %v, want ErrUnknown", err)
		}
		c.Until("another peer leads", func() bool { return old.Node.Term() == 0 && c.Leader() != old })
		mustPropose(t, c.Leader(), put(fsm.Update, "x", "2"))
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
		disks[old.ID].Set(false)
		c.Until("the old leader follows", func() bool { return old.FSM.State().Hash() == c.Leader().FSM.State().Hash() })
	})
}
