// Package raftnodetest runs quorums of raftnode peers in one process, in memory: the network is pipes, the disks are maps.
// Everything waits by channels and timers only, so a cluster can live in a testing/synctest bubble.
package raftnodetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/disk/disktest"
)

// Peer is one master of a Cluster. Node and FSM are those of its present life; Stop and Start replace them.
type Peer struct {
	ID, Addr string
	Node     *raftnode.Node
	FSM      *fsm.FSM
	Disk     *disktest.Disk // nil: it has storage instead

	storage *raftnode.Storage
}

// Cluster is a quorum in memory.
type Cluster struct {
	Peers []*Peer

	t       testing.TB
	options Options
	network *network
}

// Options of a cluster; the zero value is fine.
type Options struct {
	Timing  raftnode.Timing // default: a heartbeat of 150 ms
	Slow    map[string]int  // by id: how many times slower the clock of a peer runs, which makes it a leader that lets go late
	History fsm.Options
	Knows   map[string]fsm.Level // by id: the highest feature level that a peer's program knows, looked at when it starts; default fsm.Newest
	Log     *slog.Logger
	Latency func() time.Duration              // of each message; nil: none
	Storage func(id string) *raftnode.Storage // nil: raftnode.MemoryStorage
	Disk    func(id string) *disktest.Disk    // in place of Storage: the real files on a simulated disk, which Crash needs
	Addr    func(id string) string            // of a peer; nil: the id and a port
}

// NewCluster starts n peers, joins them and waits until all vote. The test closes them at its end.
func NewCluster(t testing.TB, n int) *Cluster { return NewClusterWith(t, n, Options{}) }

// NewClusterWith is NewCluster with options.
func NewClusterWith(t testing.TB, n int, o Options) *Cluster {
	t.Helper()
	if o.Timing.Heartbeat == 0 {
		o.Timing.Heartbeat = 150 * time.Millisecond
	}
	if o.Storage == nil {
		o.Storage = func(string) *raftnode.Storage { return raftnode.MemoryStorage() }
	}
	if o.Addr == nil {
		o.Addr = func(id string) string { return id + ":6443" }
	}
	c := &Cluster{t: t, options: o, network: newNetwork(o.Latency)}
	t.Cleanup(c.close)
	for range n {
		c.Add()
	}
	if err := c.Peers[0].Node.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Peers[1:] {
		c.Join(p)
	}
	c.Leader()
	return c
}

// Add starts one more peer, which is not joined yet.
func (c *Cluster) Add() *Peer {
	c.t.Helper()
	id := fmt.Sprintf("m%d", len(c.Peers)+1)
	p := &Peer{ID: id, Addr: c.options.Addr(id)}
	c.Wipe(p)
	c.Peers = append(c.Peers, p)
	c.Start(p)
	return p
}

// Start opens a peer that was stopped, with the log that it had.
func (c *Cluster) Start(p *Peer) {
	c.t.Helper()
	if err := c.TryStart(p); err != nil {
		c.t.Fatal(err)
	}
}

// TryStart is Start of a peer that may refuse to start.
func (c *Cluster) TryStart(p *Peer) error {
	history := c.options.History
	if knows, ok := c.options.Knows[p.ID]; ok {
		history.Knows = knows
	}
	p.FSM = fsm.New(history)
	timing := c.options.Timing
	timing.Heartbeat *= time.Duration(max(1, c.options.Slow[p.ID]))
	config := raftnode.Config{
		ID: p.ID, Addr: p.Addr, FSM: p.FSM, Storage: p.storage, Timing: timing, Log: c.options.Log,
		Version: "test",
		Dial: func(ctx context.Context, addr, id string) (net.Conn, error) {
			return c.network.dial(ctx, p.Addr, addr, serviceRaft)
		},
	}
	if p.Disk != nil {
		config.FS, config.Dir, config.FileBytes = p.Disk.Mount(), Dir, FileBytes
	}
	node, err := raftnode.Open(config)
	if err != nil {
		return err
	}
	p.Node = node
	c.network.serve(p.Addr, serviceRaft, node.HandleConn)
	return nil
}

// Stop closes a peer; what it had on its disk stays.
func (c *Cluster) Stop(p *Peer) {
	c.t.Helper()
	c.network.remove(p.Addr)
	err := p.Node.Close()
	if errors.Is(err, raftnode.ErrDiskHangs) && p.Disk != nil {
		p.Disk.Kill() // it was not waited for; the process ends
	} else if err != nil {
		c.t.Error(err)
	}
}

// Join makes a peer a voter.
func (c *Cluster) Join(p *Peer) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := c.Leader().Node.Join(ctx, p.ID, p.Addr)
		if err == nil {
			return
		}
		if !errors.Is(err, fsm.ErrNotLeader) || ctx.Err() != nil {
			c.t.Fatal(err)
		}
	}
}

// patience is how long the helpers wait before they fail the test.
const patience = 30 * time.Second

// Until polls a condition and fails the test when it does not come true.
func (c *Cluster) Until(what string, condition func() bool) {
	c.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			c.t.Fatalf("waited too long until %s", what)
		}
	}
}

// Leader waits for a peer that leads and is connected, and returns it.
func (c *Cluster) Leader() *Peer {
	c.t.Helper()
	var leader *Peer
	c.Until("there is a leader", func() bool {
		for _, p := range c.Peers {
			if c.network.connected(p.Addr) && p.Node.Term() != 0 {
				leader = p
				return true
			}
		}
		return false
	})
	return leader
}

// Follower returns a connected peer that does not lead.
func (c *Cluster) Follower() *Peer {
	c.t.Helper()
	leader := c.Leader()
	for _, p := range c.Peers {
		if p != leader && c.network.connected(p.Addr) {
			return p
		}
	}
	c.t.Fatal("there is no follower")
	return nil
}

// Cut breaks the connections of a peer and refuses new ones, as when its process dies; Freeze lets nothing pass, but leaves
// connections open, as when its host is gone. Heal undoes both: what was frozen arrives late.
func (c *Cluster) Cut(p *Peer)    { c.network.set(p.Addr, cut) }
func (c *Cluster) Freeze(p *Peer) { c.network.set(p.Addr, frozen) }
func (c *Cluster) Heal(p *Peer)   { c.network.set(p.Addr, whole) }

// Block stops what one address sends to another, Pass lets it go on; what was sent meanwhile arrives then.
func (c *Cluster) Block(from, to string) { c.network.block(from, to, true) }
func (c *Cluster) Pass(from, to string)  { c.network.block(from, to, false) }

// Serve takes connections for another service at a peer, until the peer is stopped.
func (c *Cluster) Serve(p *Peer, service string, handle func(net.Conn)) {
	c.network.serve(p.Addr, service, handle)
}

// Dial connects the host from, a peer's address or any other name, with a service that a peer serves.
func (c *Cluster) Dial(ctx context.Context, from, to, service string) (net.Conn, error) {
	return c.network.dial(ctx, from, to, service)
}

// Move makes a peer reachable at another address and no longer at its old one; it must be stopped.
func (c *Cluster) Move(p *Peer, addr string) { p.Addr = addr }

// Wipe makes a stopped peer forget everything.
func (c *Cluster) Wipe(p *Peer) {
	if c.options.Disk != nil {
		p.Disk = c.options.Disk(p.ID)
	} else {
		p.storage = c.options.Storage(p.ID)
	}
}

// Copy starts a second process on a copy of a peer's disk (Options.Disk), at another address.
func (c *Cluster) Copy(p *Peer, addr string) *Peer {
	c.t.Helper()
	second := &Peer{ID: p.ID, Addr: addr, Disk: p.Disk.Copy(1)}
	c.Peers = append(c.Peers, second)
	c.Start(second)
	return second
}

// Storage is what a stopped peer has on its disk.
func (c *Cluster) Storage(p *Peer) *raftnode.Storage { return p.storage }

func (c *Cluster) close() {
	for _, p := range c.Peers {
		c.network.remove(p.Addr)
	}
	for _, p := range c.Peers {
		if err := p.Node.Close(); err != nil {
			c.t.Error(err)
		}
	}
	c.network.serving.Wait()
}
