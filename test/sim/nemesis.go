package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"mgr/raftnode/disk/disktest"
)

// fault is something that goes wrong. begin makes it so and says what it did; end, which may be nil, makes it good again. Faults are
// begun and ended by one goroutine, and may overlap.
type fault struct {
	name   string
	weight int
	begin  func(w *world) (what string, end func())
}

var allFaults = []fault{
	{"isolate", 5, isolate},
	{"one way", 3, oneWay},
	{"bridge", 2, bridge},
	{"flap", 2, flap},
	{"crash", 6, crash},
	{"crash all", 2, crashAll},
	{"planned stop", 3, plannedStop},
	{"transfer", 3, transfer},
	{"snapshot", 3, snapshot},
	{"wipe", 1, wipe},
	{"grow", 1, grow},
	{"slow links", 2, slowLinks},
	{"lost node", 2, loseNode},
	{"pause", 3, pause},
	{"hanging disk", 2, hang},
	{"slow disk", 2, slowDisk},
	{"failed sync", 2, failSync},
	{"full disk", 1, fullDisk},
}

// suffer lets things go wrong, one or two at a time.
func (w *world) suffer() {
	faults, sum := w.plan.faults, 0
	if faults == nil {
		faults = allFaults
	}
	for _, f := range faults {
		sum += f.weight
	}
	var end func()
	for range w.plan.episodes {
		w.pass(w.between(20*time.Millisecond, 800*time.Millisecond))
		f, at := faults[0], w.random.IntN(sum)
		for _, f = range faults {
			if at -= f.weight; at < 0 {
				break
			}
		}
		what, undo := f.begin(w)
		if what == "" {
			continue
		}
		w.totals.episodes++
		w.tell("%s", what)
		w.pass(w.between(50*time.Millisecond, 1800*time.Millisecond))
		if end != nil {
			end()
			end = nil
		}
		switch {
		case undo == nil:
		case w.random.IntN(3) == 0:
			end = undo // goes on during the next one
		default:
			undo()
		}
	}
	if end != nil {
		end()
	}
}

func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.random.Int64N(int64(most-least)))
}

// pass lets time pass, and looks at all masters meanwhile.
func (w *world) pass(d time.Duration) {
	const step = 200 * time.Millisecond
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		time.Sleep(min(step, left))
		w.look()
	}
}

// look observes all masters, and starts anew what has given up, as a supervisor does.
func (w *world) look() {
	for _, m := range w.running() {
		w.oracle.observe(m.Peer)
		if w.plan.broken == lyingDisks && w.random.IntN(5) == 0 {
			m.old = m.Disk.Copy(0)
		}
		if err := m.Node.Err(); err != nil {
			w.replace(m, err)
		}
	}
	for _, b := range w.oracle.take() {
		w.broke("%s", b)
	}
}

// replace starts a master anew that has given up, as a supervisor does; one whose data cannot be trusted is installed anew.
func (w *world) replace(m *master, err error) {
	w.tell("%s has given up: %v", m.ID, err)
	w.kill(m, false)
	if strings.Contains(err.Error(), "cannot be trusted") {
		if !m.rotten {
			w.broke("%s does not trust its data: %v", m.ID, err)
		}
		w.cluster.Wipe(m.Peer)
	}
	w.start(m)
}

// some is a master that runs, often the leader; nil if none does.
func (w *world) some() *master {
	all := w.running()
	if len(all) == 0 {
		return nil
	}
	m := all[w.random.IntN(len(all))]
	if l := w.leader(); l != nil && w.random.IntN(2) == 0 {
		return l
	}
	return m
}

// leader is the running master with the latest term of leadership; nil: there is none.
func (w *world) leader() *master {
	var leader *master
	latest := uint64(0)
	for _, m := range w.running() {
		if t := m.Node.Term(); t > latest {
			leader, latest = m, t
		}
	}
	return leader
}

func isolate(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	what := "cut off"
	if w.random.IntN(3) == 0 {
		w.cluster.Cut(m.Peer)
	} else {
		what = "freeze"
		w.cluster.Freeze(m.Peer)
	}
	return what + " " + m.ID, func() {
		w.tell("heal %s", m.ID)
		w.cluster.Heal(m.Peer)
	}
}

// block closes ways and returns what opens them again.
func (w *world) block(ways [][2]string) func() {
	for _, x := range ways {
		w.cluster.Block(x[0], x[1])
	}
	return func() {
		w.tell("ways are open again")
		for _, x := range ways {
			w.cluster.Pass(x[0], x[1])
		}
	}
}

// oneWay makes a master deaf or mute towards one other or all.
func oneWay(w *world) (string, func()) {
	m := w.some()
	if m == nil || len(w.masters) < 2 {
		return "", nil
	}
	deaf, only := w.random.IntN(2) == 0, w.masters[w.random.IntN(len(w.masters))]
	if w.random.IntN(2) == 0 {
		only = nil
	}
	var ways [][2]string
	var others []string
	for _, o := range w.masters {
		if o == m || only != nil && only != m && o != only {
			continue
		}
		others = append(others, o.ID)
		if deaf {
			ways = append(ways, [2]string{o.Addr, m.Addr})
		} else {
			ways = append(ways, [2]string{m.Addr, o.Addr})
		}
	}
	what := "is heard no more by"
	if deaf {
		what = "hears no more of"
	}
	return fmt.Sprintf("%s %s %s", m.ID, what, strings.Join(others, " ")), w.block(ways)
}

// bridge leaves one master that both others reach.
func bridge(w *world) (string, func()) {
	if len(w.masters) < 3 {
		return "", nil
	}
	at := w.random.IntN(len(w.masters))
	a, b := w.masters[(at+1)%len(w.masters)], w.masters[(at+2)%len(w.masters)]
	return fmt.Sprintf("%s and %s do not reach each other", a.ID, b.ID), w.block([][2]string{{a.Addr, b.Addr}, {b.Addr, a.Addr}})
}

func flap(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	times := 2 + w.random.IntN(5)
	w.tell("%s flaps %d times", m.ID, times)
	for range times {
		w.cluster.Freeze(m.Peer)
		w.pass(w.between(20*time.Millisecond, 500*time.Millisecond))
		w.cluster.Heal(m.Peer)
		w.pass(w.between(20*time.Millisecond, 500*time.Millisecond))
	}
	return "it flaps no more", nil
}

func crash(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	w.totals.crashes++
	power := w.random.IntN(2) == 0
	w.kill(m, power)
	if power {
		return "power cut of " + m.ID, func() { w.revive(m) }
	}
	return "kill " + m.ID, func() { w.revive(m) }
}

func (w *world) revive(m *master) {
	if !m.up {
		w.tell("start %s", m.ID)
		w.start(m)
	}
}

func crashAll(w *world) (string, func()) {
	all := w.running()
	if len(all) == 0 {
		return "", nil
	}
	for _, m := range all {
		w.totals.crashes++
		w.kill(m, true)
	}
	w.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return "power cut of all masters", func() {
		for _, m := range all {
			w.revive(m)
			w.pass(w.between(0, 300*time.Millisecond))
		}
	}
}

func plannedStop(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	w.tell("stop %s", m.ID)
	w.leave(m)
	return "it has stopped", func() { w.revive(m) }
}

func transfer(w *world) (string, func()) {
	m := w.leader()
	if m == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.between(50*time.Millisecond, 2*time.Second))
	defer cancel()
	err := m.Node.TransferLeadership(ctx)
	return fmt.Sprintf("%s hands leadership over: %v", m.ID, err), nil
}

func snapshot(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	return fmt.Sprintf("snapshot of %s: %v", m.ID, m.Node.Snapshot()), nil
}

// wipe makes a master forget everything; it joins again under its name.
func wipe(w *world) (string, func()) {
	m := w.some()
	fresh := func(m *master) bool { return m.Node.Fresh() }
	if m == nil || len(w.running()) < len(w.masters) || slices.ContainsFunc(w.masters, fresh) {
		return "", nil // what is left must be a quorum that can take it in
	}
	w.totals.crashes++
	w.kill(m, true)
	w.cluster.Wipe(m.Peer)
	return "wipe " + m.ID, func() {
		w.revive(m)
		w.join(m)
	}
}

// join takes a master into the quorum, if that works within some time.
func (w *world) join(m *master) {
	for range 20 {
		if l := w.leader(); l != nil && l != m {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err := l.Node.Join(ctx, m.ID, m.Addr)
			cancel()
			if err == nil {
				w.tell("%s has joined", m.ID)
				return
			}
		}
		w.pass(200 * time.Millisecond)
	}
	w.tell("%s did not join", m.ID)
}

// grow adds a master.
func grow(w *world) (string, func()) {
	l := w.leader()
	if l == nil {
		return "", nil
	}
	if len(w.masters) < 5 {
		m := w.adopt(w.cluster.Add())
		w.join(m)
		return "added " + m.ID, nil
	}
	return "", nil
}

func slowLinks(w *world) (string, func()) {
	most := w.between(5*time.Millisecond, 300*time.Millisecond)
	w.storm.Store(int64(most))
	return fmt.Sprintf("messages take up to %v", most.Round(time.Millisecond)), func() {
		w.tell("messages are fast again")
		w.storm.Store(0)
	}
}

// loseNode cuts an agent off.
func loseNode(w *world) (string, func()) {
	number := w.random.IntN(w.plan.agents)
	var ways [][2]string
	for _, m := range w.masters {
		for _, host := range []string{agentName(number), agentName(number) + "-lease"} {
			ways = append(ways, [2]string{host, m.Addr}, [2]string{m.Addr, host})
		}
	}
	return "cut off " + agentName(number), w.block(ways)
}

// pause stops a master as SIGSTOP does, as far as others and its disk can see, and lets it go on.
func pause(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	w.cluster.Freeze(m.Peer)
	stall(m, w.between(100*time.Millisecond, 3*time.Second))
	return "pause " + m.ID, func() {
		w.tell("%s goes on", m.ID)
		w.cluster.Heal(m.Peer)
	}
}

func hang(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	d := w.between(100*time.Millisecond, 4*time.Second)
	stall(m, d)
	return fmt.Sprintf("the disk of %s hangs for %v", m.ID, d.Round(time.Millisecond)), nil
}

// stall lets no write or sync of a master end before the time is over. Reads go on: a lock that is held while the disk reads would stop
// virtual time.
func stall(m *master, d time.Duration) {
	end := time.Now().Add(d)
	m.Disk.SetLatency(func(op disktest.Op, _ string) time.Duration {
		if op == disktest.OpWrite || op == disktest.OpSync {
			return time.Until(end)
		}
		return 0
	})
}

func slowDisk(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	disk, most := m.Disk, w.between(10*time.Millisecond, 300*time.Millisecond)
	disk.SetLatency(func(op disktest.Op, _ string) time.Duration {
		if op == disktest.OpSync {
			return rand.N(most)
		}
		return 0
	})
	return fmt.Sprintf("syncs of %s take up to %v", m.ID, most.Round(time.Millisecond)), func() {
		w.tell("the disk of %s is fast again", m.ID)
		disk.SetLatency(nil)
	}
}

// failSync makes the next sync of a master fail; it has to stop and to start anew.
func failSync(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	disk := m.Disk
	var done atomic.Bool
	disk.SetFault(func(op disktest.Op, _ string) error {
		if op == disktest.OpSync && done.CompareAndSwap(false, true) {
			return syscall.EIO
		}
		return nil
	})
	return "a sync of " + m.ID + " fails", func() { disk.SetFault(nil) }
}

func fullDisk(w *world) (string, func()) {
	m := w.some()
	if m == nil {
		return "", nil
	}
	disk := m.Disk
	disk.SetCapacity(disk.Used() + int64(w.random.IntN(64<<10)))
	return "the disk of " + m.ID + " is full", func() {
		w.tell("the disk of %s has space again", m.ID)
		disk.SetCapacity(1 << 40)
	}
}
