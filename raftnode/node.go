package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
	"mgr/fsm"
	"mgr/raftnode/disk"
)

// Config of a peer.
type Config struct {
	ID   string // unique and for ever; the name in the peer's certificate
	Addr string // host:port at which the other peers reach this one
	Dir  string // data directory; made if missing
	FSM  *fsm.FSM
	// Dial opens an authenticated connection to the peer with this address and id, to be served there by HandleConn.
	Dial    func(ctx context.Context, addr, id string) (net.Conn, error)
	Log     *slog.Logger
	Version string // of the program, shown by Members

	Timing     Timing
	DeadAfter  time.Duration // silence after which the leader removes a master, if it is safe; default 10 min; negative: never
	RaiseAfter time.Duration // how long all members must have known a higher feature level before it is raised; default 30 s
	InFlight   int           // log entries that may be on their way at once; default 2: while one is stored by the followers, the leader stores the next
	Storage    *Storage      // in place of Dir, for tests
	FS         disk.FS       // of Dir; default disk.Real
	FileBytes  int64         // size of the log's files; default 8 MiB
}

// Timing of a peer; zero values take the defaults. All peers should have the same.
type Timing struct {
	Heartbeat time.Duration // silence after which a follower stands for election, up to twice as long; default 600 ms; see adapt.go
	Election  time.Duration // after which an election is held anew; default Heartbeat
	Lease     time.Duration // after which a leader that reaches no majority steps down; default Heartbeat
	RPC       time.Duration // for one answer of a peer; default 3 × Heartbeat
	Write     time.Duration // after which a write of the log counts as hung and the leader steps down; default 1.5 s; see guard.go
}

func (t *Timing) complete() {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&t.Heartbeat, 600*time.Millisecond)
	set(&t.Election, t.Heartbeat)
	set(&t.Lease, t.Heartbeat)
	set(&t.RPC, 3*t.Heartbeat)
	set(&t.Write, 1500*time.Millisecond)
}

// Node is one peer.
type Node struct {
	config    Config
	fsm       *fsm.FSM
	raft      *raft.Raft
	running   atomic.Pointer[raft.Raft] // raft, for those whom it calls and who may be called while it starts
	storage   *Storage
	guard     *guard
	votes     *guardedVote
	snapshots *guardedSnapshots
	sickness  sickness
	space     *reserve // nil in memory
	streams   *streams
	transport *early
	gate      *gate
	rpc       *rpcClient
	notify    chan bool
	commits   commits
	proposals proposals
	forms     sync.Map // *byte, where an entry of this leader's begins → [][]fsm.Form; raft hands the same bytes to apply

	anyReads    *rounds // ReadIndex of this peer
	leaderReads *rounds // of all peers, while this one leads
	scope       atomic.Pointer[scope]
	scopeMu     sync.Mutex // held by whoever begins a scope

	wellVoters atomic.Int64 // as the leader counted them last
	seenAt     uint64       // comeOfAge's: end of the log when this peer first saw that it votes

	peersMu  sync.Mutex
	peers    map[raft.Server]*peer
	contacts contacts

	chronicle chronicle
	patient   atomic.Int64 // this follower's patience; see adapt.go

	reloadMu      sync.Mutex  // held by whoever changes raft's settings
	full          atomic.Bool // the disk is almost full
	resnap        atomic.Bool // a snapshot is to be taken soon, because the last one is damaged
	diverged      atomic.Bool // the state differs from that of others
	odd           string      // what was said last about who differs, see compareStates
	wrong         quarantine  // the state of this peer is the wrong one
	reading       atomic.Bool // raft reads its snapshot
	newborn       atomic.Bool // it has founded a cluster and not led yet
	admitting     waitLock    // held by whoever changes the members, until that is committed, or raises the feature level
	leaving       atomic.Bool // leadership is about to be handed over
	epoch         atomic.Uint64
	epochMu       sync.Mutex // held by whoever may change the epoch
	heard         heardNote
	transferStuck atomic.Int64 // time of the first unexpected "transfer in progress", 0 = none
	opened        time.Time
	instance      uint64 // of this process: a copy of its data elsewhere has another
	failure       atomic.Pointer[error]
	failed        chan struct{}

	down     chan struct{} // closed when raft has been shut down
	downOnce sync.Once

	ctx  context.Context
	stop context.CancelFunc
	// working ends with ctx, or when the node has failed: nothing is applied any more.
	working     context.Context
	stopWorking context.CancelFunc
	wg          sync.WaitGroup
	once        sync.Once
}

// Open starts the peer with what its data directory has. A new peer waits there to be joined to a cluster, or for
// Bootstrap.
func Open(c Config) (*Node, error) {
	if c.ID == "" || c.Addr == "" || c.FSM == nil || c.Dial == nil {
		return nil, errors.New("open master: ID, Addr, FSM and Dial are needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.InFlight <= 0 {
		c.InFlight = 2
	}
	if c.RaiseAfter <= 0 {
		c.RaiseAfter = raiseAfter
	}
	if c.FS == nil {
		c.FS = disk.Real()
	}
	if c.FileBytes <= 0 {
		c.FileBytes = int64(failpoint.Number("segment.bytes", segmentBytes))
	}
	if c.DeadAfter == 0 {
		c.DeadAfter = deadAfter
	}
	c.Timing.complete()
	n := &Node{
		config: c, fsm: c.FSM, opened: time.Now(), instance: rand.Uint64(), notify: make(chan bool, 16),
		failed: make(chan struct{}), down: make(chan struct{}),
		peers:   map[raft.Server]*peer{},
		commits: commits{signal: make(chan struct{}, 1), wanted: make(chan struct{}, 1)}, proposals: proposals{wake: make(chan struct{}, 1)},
		contacts: contacts{at: map[string]time.Time{}},
	}
	n.wrong.closed = make(chan struct{})
	n.sickness.fail, n.sickness.reinstall = n.fail, n.reinstall
	n.admitting = make(waitLock, 1)
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.working, n.stopWorking = context.WithCancel(n.ctx)
	n.chronicle.log, n.chronicle.self = c.Log, c.ID
	n.beginScope(0)
	n.anyReads, n.leaderReads = n.rounds(n.askReadIndex), n.rounds(n.confirmReadIndex)
	if err := n.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("open master %s: %w", c.ID, err), n.Close())
	}
	return n, nil
}

func (n *Node) start() error {
	c, log := &n.config, &hclogger{log: n.config.Log}
	n.storage = c.Storage
	if n.storage == nil {
		var err error
		if n.storage, err = openStorage(c.FS, c.Dir, c.FileBytes, log); err != nil {
			if errors.Is(err, ErrDamaged) {
				n.reinstall(err)
				return n.Err()
			}
			return err
		}
	}
	n.attend()
	n.streams = newStreams(c)
	n.streams.idOf, n.streams.serve = n.idOf, n.serveRPC
	n.streams.epoch, n.streams.meet = n.Epoch, n.meet
	n.rpc = &rpcClient{streams: n.streams, idle: map[string][]net.Conn{}, contacts: &n.contacts}
	epoch, err := n.storage.number(keyEpoch)
	if err = errors.Join(err, n.storage.checkRecovered()); err != nil {
		return err
	}
	n.epoch.Store(epoch)
	if err := n.openTransport(log); err != nil {
		return err
	}
	if err := n.openRaft(log); err != nil {
		return err
	}
	n.wg.Go(func() { n.chronicle.follow(n.ctx, n) })
	n.wg.Go(n.followLeadership)
	for range c.InFlight {
		n.wg.Go(n.proposeLoop)
	}
	n.wg.Go(n.pushCommits)
	n.wg.Go(n.watchLeader)
	n.wg.Go(n.housekeep)
	n.wg.Go(n.compareStates)
	n.wg.Go(n.adapt)
	n.wg.Go(func() { n.RunAsLeader(n.ctx, n.raiseLevel) })
	n.wg.Go(n.comeOfAge)
	n.wg.Go(func() { n.RunAsLeader(n.ctx, n.tend) })
	n.wg.Go(n.shutDownFailed)
	return nil
}

// openTransport makes the way between raft and the network, with the gate in it.
func (n *Node) openTransport(log *hclogger) error {
	known, err := raft.HasExistingState(n.guard, n.votes, n.snapshots)
	if err != nil {
		return fmt.Errorf("look for data of an earlier life: %w", err)
	}
	n.gate, err = newGate(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: log, Stream: n.streams, MaxPool: 1, Timeout: 4 * n.config.Timing.RPC,
	}), n.storage, known, n.Quarantined, n.heard.note)
	if err != nil {
		return err
	}
	n.gate.applied = n.appliedIndex
	n.transport = newEarly(n.gate)
	n.wg.Go(func() { n.gate.pass(n.ctx) })
	return nil
}

// never is longer than anything, for the timers of raft that are replaced by our own.
const never = 365 * 24 * time.Hour

func (n *Node) raftConfig(log *hclogger) *raft.Config {
	c, t := raft.DefaultConfig(), &n.config.Timing
	c.LocalID = raft.ServerID(n.config.ID)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = never, never, t.Lease // until the gate opens
	c.MaxAppendEntries = 64                                                             // and no more than maxAppendBytes of them
	c.BatchApplyCh = false                                                              // what waits in a buffer when raft shuts down is never answered; proposeLoop batches
	c.ShutdownOnRemove = false                                                          // the peer goes on to serve and can be joined again
	c.SnapshotInterval = never                                                          // see housekeep
	c.TrailingLogs = mostTrailing
	c.NotifyCh = n.notify
	c.NoLegacyTelemetry = true
	c.Logger = log
	return c
}

// Bootstrap makes this peer the first voter of a new cluster. It is an error if it has state already.
func (n *Node) Bootstrap() error {
	if err := n.storage.forgetHalfBirth(); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	n.newborn.Store(true)
	err := n.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(n.config.ID), Address: raft.ServerAddress(n.config.Addr),
	}}}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("bootstrap: the data directory %s has a cluster already", n.config.Dir)
	}
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	if err := n.gate.grow(); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// HandleConn serves a connection accepted from another peer and returns when it is closed.
func (n *Node) HandleConn(conn net.Conn) { n.streams.handle(conn, n.config.Timing.RPC) }

// FSM is the replicated state.
func (n *Node) FSM() *fsm.FSM { return n.fsm }

// Failed is closed when this peer can no longer follow its log and must be started anew; Err says why.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err is nil until Failed is closed.
func (n *Node) Err() error {
	if p := n.failure.Load(); p != nil {
		return *p
	}
	return nil
}

func (n *Node) fail(err error) {
	err = fmt.Errorf("master %s has stopped: %w", n.config.ID, err)
	if n.failure.CompareAndSwap(nil, &err) {
		n.config.Log.Error("this master stops", "error", err)
		close(n.failed)
		n.stopWorking()
	}
}

// shutDownFailed takes a failed peer out of the quorum. Its connections are closed at once: raft answers no request any more, and
// whoever serves one would wait for that for ever; besides, the others learn by it that this peer is gone.
func (n *Node) shutDownFailed() {
	select {
	case <-n.failed:
		n.raft.Shutdown()
		n.endFutures()
		_ = n.streams.Close()
	case <-n.ctx.Done():
	}
}

func (n *Node) endFutures() { n.downOnce.Do(func() { close(n.down) }) }

// apply gives committed entries to the state machine; after a failure nothing is applied any more.
func (n *Node) apply(entries []fsm.Entry) ([][]fsm.Result, error) {
	if err := n.Err(); err != nil {
		return nil, err
	}
	results, err := n.fsm.ApplyBatch(entries)
	if err != nil {
		n.fail(err)
		return results, n.Err()
	}
	return results, nil
}

// Close stops the peer and waits for everything it started.
func (n *Node) Close() error {
	var err error
	n.once.Do(func() {
		n.stop()
		n.proposals.abandon()
		if n.streams != nil {
			_ = n.streams.Close() // first, so that nothing below waits for a peer
		}
		if n.raft != nil {
			err = n.raft.Shutdown().Error()
		}
		n.endFutures()
		if n.transport != nil {
			err = errors.Join(err, n.transport.Close())
		}
		n.anyReads.seal()
		n.leaderReads.seal()
		n.sealPeers()
		n.wg.Wait()
		if n.raft != nil && n.Err() == nil {
			n.leaveHeard()
		}
		err = errors.Join(err, n.closeStorage())
	})
	if err != nil {
		return fmt.Errorf("close master %s: %w", n.config.ID, err)
	}
	return nil
}
