package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mgr/cmd/boot"
	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/disk/disktest"
	"mgr/raftnode/raftnodetest"
	"mgr/tunnel"
)

// plan is what a seed decides before anything runs.
type plan struct {
	seed      uint64
	masters   int
	agents    int
	heartbeat time.Duration
	jitter    time.Duration // of each message
	pace      time.Duration // most that a client waits between two requests
	history   fsm.Options
	episodes  int
	verbose   bool
	faults    []fault  // nil: all
	broken    breakage // what is broken on purpose, to see that it is found
}

// breakage is a part that does not do what it should.
type breakage int

const (
	nothing     breakage = iota
	staleReads           // reads do not wait for what was committed before
	lyingDisks           // a power cut takes what was synced less than some seconds ago
	lossyWatch           // one watcher is not sent one event
	secretWrite          // one write that was refused is made all the same
)

// world is one cluster in virtual time with everything that uses it.
type world struct {
	t       *testing.T
	plan    plan
	trust   *trust
	cluster *raftnodetest.Cluster
	random  *rand.Rand // of the nemesis
	began   time.Time
	log     *slog.Logger

	masters []*master
	oracle  *oracle
	leaders leaders
	totals  totals
	floor   atomic.Uint64 // the highest revision that anybody was told of

	storm atomic.Int64 // extra latency of messages, in nanoseconds

	clients, agents *crew

	mu       sync.Mutex
	story    []string        // what was done, with virtual times
	broken   []string        // rules that were
	isMember map[string]bool // addresses of masters
	spans    []*span
}

// master is one peer and the control plane on it; Stop and start replace what belongs to a life.
type master struct {
	*raftnodetest.Peer
	up     bool
	rotten bool           // its data were damaged on purpose
	old    *disktest.Disk // as it was some time ago, for lyingDisks
	plane  *boot.Plane
	server *http.Server
	peers  *http.Transport
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// networks of the simulated clusters.
var (
	services = netip.MustParsePrefix("10.43.0.0/16")
	pods     = netip.MustParsePrefix("10.42.0.0/16")
)

const (
	nodeGrace     = 4 * time.Second
	podToleration = 5 * time.Second
)

// newWorld starts the masters and waits until they serve. It must be called in a bubble.
func newWorld(t *testing.T, p plan) *world {
	t.Helper()
	tr, err := sharedTrust()
	if err != nil {
		t.Fatal(err)
	}
	// client-go's recorders leave a request behind that waits to be tried again; time must pass for it, when all else has ended.
	t.Cleanup(func() { time.Sleep(time.Minute) })
	w := &world{
		t: t, plan: p, trust: tr, random: rand.New(rand.NewPCG(p.seed, 1)), began: time.Now(), oracle: newOracle(), isMember: map[string]bool{},
	}
	w.log = slog.New(&journal{w: w})
	w.cluster = raftnodetest.NewClusterWith(t, p.masters, raftnodetest.Options{
		Timing: raftnode.Timing{Heartbeat: p.heartbeat}, Latency: w.latency, History: p.history, Log: w.log,
		Disk: func(string) *disktest.Disk { return disktest.New(w.random.Uint64()) },
		Addr: func(id string) string { return "10.0.0." + strings.TrimPrefix(id, "m") + ":6443" },
	})
	for _, peer := range w.cluster.Peers {
		w.adopt(peer)
	}
	return w
}

// latency of one message.
func (w *world) latency() time.Duration {
	most := w.plan.jitter + time.Duration(w.storm.Load())
	if most == 0 {
		return 0
	}
	return rand.N(most)
}

// adopt puts a control plane on a peer that runs.
func (w *world) adopt(peer *raftnodetest.Peer) *master {
	m := &master{Peer: peer}
	w.mu.Lock()
	w.isMember[peer.Addr] = true
	w.mu.Unlock()
	w.masters = append(w.masters, m)
	w.oracle.begin(m.Peer)
	w.assemble(m)
	return m
}

func (w *world) isMaster(addr string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isMember[addr]
}

// assemble begins a life above a node that runs.
func (w *world) assemble(m *master) {
	m.peers = w.transport(m.Addr)
	log := w.log.With("master", m.ID)
	var err error
	m.plane, err = boot.Assemble(boot.Parts{
		ID: m.ID, Node: m.Node, Authority: w.trust.authority, Tunnels: tunnel.NewRegistry(log), Peers: plain{m.peers},
		Services: services, Pods: pods, NodeGrace: nodeGrace, PodToleration: podToleration, Log: log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	node, id, plane := m.Node, m.ID, m.plane
	m.done.Go(func() {
		if err := plane.Run(ctx); err != nil {
			w.broke("the control plane of %s ended: %v", id, err)
		}
	})
	m.done.Go(func() {
		node.RunAsLeader(ctx, func(_ context.Context, term uint64) { w.noteLeader(id, term) })
	})
	l := newListener()
	m.server = &http.Server{Handler: w.identified(m.ID, m.plane.Handler()), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	server := m.server
	m.done.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.broke("the port of %s ended: %v", id, err)
		}
	})
	w.cluster.Serve(m.Peer, serviceHTTP, l.take)
	m.up = true
}

// start begins another life of a stopped master. One that is told that its data are damaged is installed anew, as cmd/boot does.
func (w *world) start(m *master) {
	if err := w.cluster.TryStart(m.Peer); err != nil {
		if !errors.Is(err, raftnode.ErrDamaged) || !m.rotten {
			w.broke("%s does not start: %v", m.ID, err)
		}
		w.tell("%s is installed anew: %v", m.ID, err)
		w.cluster.Wipe(m.Peer)
		w.cluster.Start(m.Peer)
	}
	m.rotten = false
	w.oracle.begin(m.Peer)
	w.assemble(m)
}

// kill ends a master as kill -9 does, or as a power cut: nothing leaves it any more, and what it had not synced may be lost.
func (w *world) kill(m *master, power bool) {
	w.oracle.observe(m.Peer) // while there are few events that it may have forgotten
	defer w.oracle.observe(m.Peer)
	m.up = false
	if power {
		w.cluster.Crash(m.Peer)
		if m.old != nil {
			m.Disk = m.old
		}
	} else {
		w.cluster.Kill(m.Peer)
	}
	w.dismantle(m)
}

// leave ends a master as planned: it hands leadership over.
func (w *world) leave(m *master) {
	w.oracle.observe(m.Peer)
	defer w.oracle.observe(m.Peer)
	m.plane.Leave(2 * time.Second)
	m.up = false
	w.dismantle(m)
	w.cluster.Stop(m.Peer)
}

// dismantle ends what is above the node.
func (w *world) dismantle(m *master) {
	m.plane.Close()
	m.stop()
	m.server.Close()
	m.peers.CloseIdleConnections()
	m.done.Wait()
}

// up returns the masters that run.
func (w *world) running() []*master {
	var all []*master
	for _, m := range w.masters {
		if m.up {
			all = append(all, m)
		}
	}
	return all
}

// addrs of all masters, whether they run or not: clients do not know.
func (w *world) addrs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, m := range w.masters {
		all = append(all, m.Addr)
	}
	return all
}

func (w *world) elapsed() time.Duration { return time.Since(w.began) }

// tell adds a line to the story.
func (w *world) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, fmt.Sprintf("%9.3fs  ", w.elapsed().Seconds())+fmt.Sprintf(format, args...))
}

// broke notes a rule that was broken.
func (w *world) broke(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.tell("BROKEN: %s", what)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = append(w.broken, what)
}

// close ends everything; the bubble ends with it.
func (w *world) close() {
	for _, m := range w.running() {
		m.up = false
		w.dismantle(m)
	}
}

// journal is the log of the simulated programs: warnings and errors become part of the story.
type journal struct {
	w     *world
	attrs string
}

// Enabled implements slog.Handler.
func (j *journal) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || j.w.plan.verbose && l >= slog.LevelInfo
}

// Handle implements slog.Handler.
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	j.w.tell("  %s%s:%s%s", r.Level, j.attrs, " "+r.Message, b.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := &journal{w: j.w, attrs: j.attrs}
	for _, a := range attrs {
		out.attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return out
}

// WithGroup implements slog.Handler.
func (j *journal) WithGroup(string) slog.Handler { return j }
