package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"mgr/fsm"
)

// planOf is what a seed decides.
func planOf(seed uint64) plan {
	random := rand.New(rand.NewPCG(seed, 0))
	p := plan{seed: seed, masters: 3, agents: 2 + random.IntN(2), episodes: 4 + random.IntN(5)}
	if random.IntN(10) == 0 {
		p.masters = 5
	}
	p.heartbeat = []time.Duration{150, 300, 600}[random.IntN(3)] * time.Millisecond
	p.pace = time.Duration(50+random.IntN(250)) * time.Millisecond
	p.jitter = []time.Duration{0, time.Millisecond, 20 * time.Millisecond}[random.IntN(3)]
	if random.IntN(3) == 0 {
		p.history = fsm.Options{HistoryEvents: 128} // watchers fall behind
	}
	return p
}

func (p plan) String() string {
	return fmt.Sprintf("%d masters, %d nodes, heartbeat %v, jitter %v, pace %v, %d faults", p.masters, p.agents, p.heartbeat, p.jitter, p.pace, p.episodes)
}

// result of a seed.
type result struct {
	plan   plan
	counts counts
	story  []string
	broken []string
}

// Run runs one seed in a bubble of its own.
func runSeed(t *testing.T, p plan, change ...func(*world)) result {
	var r result
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, p)
		defer w.close()
		for _, f := range change {
			f(w)
		}
		w.live()
		r = result{plan: p, counts: w.totals.sum(), story: w.story, broken: w.broken}
		r.counts.broken = len(w.broken)
	})
	return r
}

// live is the whole life of a world.
func (w *world) live() {
	agents, stopAgents := context.WithCancel(context.Background())
	clients, stopClients := context.WithCancel(context.Background())
	var ips atomic.Int64
	w.clients, w.agents = &crew{ctx: clients}, &crew{ctx: agents}
	for i := range w.plan.agents {
		w.agents.add(w, agentName(i), uint64(i), w.runAgent(i, &ips))
	}
	for i := range 2 {
		w.clients.add(w, fmt.Sprintf("writer-%d", i), uint64(200+i), w.runWriter(i))
		w.clients.add(w, fmt.Sprintf("reader-%d", i), uint64(300+i), w.runReader(100+i))
	}
	for i := range watched {
		w.clients.add(w, fmt.Sprintf("watcher-%d", i), uint64(400+i), w.runWatcher(i))
	}
	w.clients.add(w, "churn", 500, w.runChurn)
	w.suffer()
	w.recover()
	stopClients()
	w.clients.wait()
	w.settle()
	stopAgents()
	w.agents.wait()
	w.judge()
}

func agentName(i int) string { return "agent-" + strconv.Itoa(i) }

// crew are actors that end together.
type crew struct {
	ctx  context.Context
	work sync.WaitGroup
}

func (c *crew) add(w *world, name string, number uint64, run func(ctx context.Context, c *client)) {
	cl := w.client(name, number)
	c.work.Go(func() {
		defer cl.http.CloseIdleConnections()
		run(c.ctx, cl)
	})
}

func (c *crew) wait() { c.work.Wait() }

// recoverWithin is how soon after everything is well again a write must succeed.
const recoverWithin = 10 * time.Second

// recover makes everything good and demands that writes go on.
func (w *world) recover() {
	for _, m := range w.masters {
		w.cluster.Heal(m.Peer)
		w.revive(m)
	}
	w.tell("all is well again")
	for _, m := range w.masters {
		if m.Node.Fresh() { // a master that was wiped goes on asking to be taken in
			w.join(m)
		}
	}
	c := w.client("probe", 600)
	defer c.http.CloseIdleConnections()
	for _, m := range w.masters {
		began := time.Now()
		for i := 0; ; i++ {
			code, o, err := c.call(context.Background(), m.Addr, "PUT", configMapPath("/probe"), nil, configMap("probe", fmt.Sprint(m.ID, i), ""))
			if err == nil && code == 404 {
				code, o, err = c.call(context.Background(), m.Addr, "POST", configMapPath(""), nil, configMap("probe", fmt.Sprint(m.ID, i), ""))
			}
			if err == nil && code < 300 {
				break
			}
			if time.Since(began) > recoverWithin {
				w.broke("no write succeeded at %s within %v of all being well: %d %v %v", m.ID, recoverWithin, code, o, err)
				break
			}
			w.pass(100 * time.Millisecond)
		}
	}
}

// settleWithin is how soon after the last change everything must be as it is to be.
const settleWithin = 60 * time.Second

// settle waits until controllers and scheduler have nothing left to do.
func (w *world) settle() {
	began, what := time.Now(), "there is no leader"
	for time.Since(began) < settleWithin {
		w.pass(500 * time.Millisecond)
		if l := w.leader(); l != nil {
			if what = settled(l.FSM.State()); what == "" && w.together() {
				w.tell("settled")
				return
			}
		}
	}
	w.broke("%v after the last change: %s", settleWithin, what)
	if l := w.leader(); l != nil {
		for o := range l.FSM.State().Resource("nodes").List("", "") {
			w.tell("%s", o.Data)
		}
	}
}

// together says whether all masters have applied the same log.
func (w *world) together() bool {
	indexes := map[uint64]bool{}
	for _, m := range w.running() {
		indexes[m.FSM.State().Index()] = true
	}
	return len(indexes) == 1
}

// judge checks what can be checked only when all is over.
func (w *world) judge() {
	w.look()
	events, missing := w.oracle.history()
	if len(missing) > 0 {
		w.broke("%d revisions that no master has shown, from %d on", len(missing), missing[0])
	}
	w.sabotage()
	w.checkRecord(events)
	for _, s := range w.spans {
		w.checkSpan(s, events)
	}
	w.checkRules(events)
	if w.plan.seed%8 == 0 {
		w.checkRegisters()
	}
	w.totals.virtual = w.elapsed()
	w.totals.terms, w.totals.failovers = w.leaders.begun, w.leaders.change
	w.totals.revisions, w.totals.entries = len(events), len(w.oracle.hashes)
}

// sabotage makes what was recorded wrong, where that is what is broken.
func (w *world) sabotage() {
	switch w.plan.broken {
	case lossyWatch:
		for _, s := range w.spans {
			if n := len(s.events); n > 1 {
				s.events = slices.Delete(s.events, n/2, n/2+1)
				return
			}
		}
	case secretWrite:
		for i := range w.totals.record.writes {
			if x := &w.totals.record.writes[i]; x.outcome == acknowledged && x.revision != 0 {
				x.outcome = refused
				return
			}
		}
	}
}

// checkRegisters has porcupine judge the registers by values alone, as an outsider would who knows nothing of revisions.
func (w *world) checkRegisters() {
	const never = 1 << 62
	model := porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			if v := input.(string); v != "" {
				return true, v
			}
			return output == state, state
		},
	}
	byKey := map[fsm.Key][]porcupine.Operation{}
	for i, x := range w.totals.record.writes {
		op := porcupine.Operation{ClientId: x.client, Input: x.value, Call: x.call, Return: x.end}
		switch {
		case x.outcome == refused:
			continue
		case x.outcome == unknown:
			op.ClientId, op.Return = 1000+i, never
		}
		byKey[x.key] = append(byKey[x.key], op)
	}
	for _, x := range w.totals.record.reads {
		byKey[x.key] = append(byKey[x.key], porcupine.Operation{ClientId: x.client, Input: "", Output: x.value, Call: x.call, Return: x.end})
	}
	for key, ops := range byKey {
		if porcupine.CheckOperationsTimeout(model, ops, 0) == porcupine.Illegal {
			w.broke("porcupine: the %d operations on %s are not linearizable", len(ops), key)
		}
	}
}

// again is the command that shows a seed once more.
func again(seed uint64) string {
	return fmt.Sprintf("MGR_SEED=%d go test ./test/sim -run TestSeeds -v", seed)
}

// String tells the story of a seed that went wrong.
func (r result) String() string {
	broken := slices.Clone(r.broken)
	if len(broken) > 10 {
		broken = append(broken[:10], fmt.Sprintf("and %d more", len(r.broken)-10))
	}
	return fmt.Sprintf("seed %d (%v)\n%s\n\nrules broken:\n  %s\n\nagain, as nearly as goroutines allow: %s",
		r.plan.seed, r.plan, strings.Join(r.story, "\n"), strings.Join(broken, "\n  "), again(r.plan.seed))
}
