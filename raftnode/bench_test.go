package raftnode_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
)

// diskPeer is a peer with files and TCP on loopback.
type diskPeer struct {
	node     *raftnode.Node
	config   raftnode.Config
	listener net.Listener
	serving  sync.WaitGroup
}

func openDiskPeer(t testing.TB, id, addr, dir string, adjust func(*raftnode.Config)) *diskPeer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &diskPeer{listener: l, config: raftnode.Config{
		ID: id, Addr: l.Addr().String(), Dir: dir, FSM: fsm.New(fsm.Options{}),
		Dial: func(ctx context.Context, addr, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}}
	if adjust != nil {
		adjust(&p.config)
	}
	if p.node, err = raftnode.Open(p.config); err != nil {
		t.Fatal(err)
	}
	p.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() { p.node.HandleConn(conn) })
		}
	})
	return p
}

func (p *diskPeer) close(t testing.TB) {
	t.Helper()
	p.listener.Close()
	if err := p.node.Close(); err != nil {
		t.Error(err)
	}
	p.serving.Wait()
}

// newDiskCluster returns three voters; the first leads.
func newDiskCluster(t testing.TB, adjust func(*raftnode.Config)) []*diskPeer {
	t.Helper()
	var peers []*diskPeer
	for i := range 3 {
		p := openDiskPeer(t, fmt.Sprintf("m%d", i+1), "127.0.0.1:0", t.TempDir(), adjust)
		t.Cleanup(func() { p.close(t) })
		peers = append(peers, p)
	}
	if err := peers[0].node.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	untilLeads(t, peers[0].node)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, p := range peers[1:] {
		if err := peers[0].node.Join(ctx, p.config.ID, p.config.Addr); err != nil {
			t.Fatal(err)
		}
	}
	return peers
}

func untilLeads(t testing.TB, nodes ...*raftnode.Node) *raftnode.Node {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		for _, n := range nodes {
			if n.Term() != 0 {
				return n
			}
		}
	}
	t.Fatal("nobody leads")
	return nil
}

// BenchmarkPropose writes objects of 1.5 kB, durable on three peers on one disk, over TCP.
func BenchmarkPropose(b *testing.B) {
	data := strings.Repeat("x", 1450)
	for _, inFlight := range []int{1, 2, 4, 8} {
		for _, writers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("inflight=%d/writers=%d", inFlight, writers), func(b *testing.B) {
				peers := newDiskCluster(b, func(c *raftnode.Config) { c.InFlight = inFlight })
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				cpu := cpuTime(b)
				for range writers {
					wg.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							r, err := peers[0].node.Propose(b.Context(), put(fsm.Create, fmt.Sprint("x", i), data))
							if err != nil || r.Refusal != nil {
								b.Error(err, r.Refusal)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op") // of all three peers
			})
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReadIndex confirms linearizable reads at the leader and at a follower.
func BenchmarkReadIndex(b *testing.B) {
	peers := newDiskCluster(b, nil)
	for i, at := range []string{"leader", "follower"} {
		for _, readers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/readers=%d", at, readers), func(b *testing.B) {
				var next atomic.Int64
				var wg sync.WaitGroup
				for range readers {
					wg.Go(func() {
						for next.Add(1) <= int64(b.N) {
							if err := peers[i].node.ReadIndex(b.Context()); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
			})
		}
	}
}

// BenchmarkLeaderLoss measures the time from the end of the leader to the first write that another one acknowledges.
func BenchmarkLeaderLoss(b *testing.B) {
	var total, worst time.Duration
	for range b.N {
		b.StopTimer()
		peers := newDiskCluster(b, nil)
		if _, err := peers[0].node.Propose(b.Context(), put(fsm.Create, "x", "1")); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		start := time.Now()
		var closing sync.WaitGroup
		closing.Go(func() { peers[0].close(b) })
		for {
			leader := untilLeads(b, peers[1].node, peers[2].node)
			if _, err := leader.Propose(b.Context(), put(fsm.Update, "x", "2")); err == nil {
				break
			}
		}
		d := time.Since(start)
		total, worst = total+d, max(worst, d)
		closing.Wait()
	}
	b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms/loss")
	b.ReportMetric(float64(worst.Milliseconds()), "ms/worst")
}
