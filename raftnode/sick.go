package raftnode

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"mgr/fsm"
	"mgr/raftnode/disk"
)

// What a peer does when its disk does not do as it should:
//
//   - It is full: the write is refused and all goes on (reserve.go, housekeep.go).
//   - A write of the log hangs: raft is told that it failed, so that a leader steps down, and leadership is handed over. It may recover.
//   - Term or vote cannot be stored in time: the peer stops, since raft can do nothing without them.
//   - Something that was read is damaged: the peer stops and is installed anew.
//   - Anything else fails, above all a sync: the peer stops. It does not try again, because nobody knows what is on the disk then;
//     at the next start what was written last is written again.
//
// A peer stops by Node.fail. hashicorp/raft would panic instead where it cannot read an entry that is committed or store a term: there
// the goroutine that asked ends, with its deferred calls, before it gets an answer.

// sickness judges what hangs or fails on the disk of a peer, the same everywhere.
type sickness struct {
	fail, reinstall func(error)
	running         atomic.Bool // raft's goroutines are those that ask
}

// judge is told the result of every operation, and returns it.
func (s *sickness) judge(err error) error {
	switch {
	case err == nil, errors.Is(err, raft.ErrLogNotFound), errors.Is(err, syscall.ENOSPC), errors.Is(err, ErrDiskHangs):
	case errors.Is(err, ErrDamaged):
		s.reinstall(err)
	default:
		s.fail(err)
	}
	return err
}

// judged is an operation whose result is judged also when it comes too late.
func (s *sickness) judged(what func() error) func() error {
	return func() error { return s.judge(what()) }
}

// end is for errors after which raft panics: it ends the goroutine that it is called on.
func (s *sickness) end() {
	if s.running.Load() {
		runtime.Goexit()
	}
}

// attend begins to watch over the storage.
func (n *Node) attend() {
	if n.storage.files != nil {
		n.space = n.storage.files.space
	}
	write := n.config.Timing.Write
	n.guard = newGuard(n.storage.log, write, &n.sickness, n.sendAhead, n.handOver)
	n.votes = &guardedVote{StableStore: n.storage.stable, attendant: newAttendant(), deadline: 2 * write, sickness: &n.sickness}
	n.snapshots = &guardedSnapshots{
		SnapshotStore: n.storage.snapshots, attendant: newAttendant(), deadline: 4 * write, sickness: &n.sickness,
		again: func() { n.resnap.Store(true) },
	}
	for _, a := range n.attendants() {
		go a.work() // until closeStorage
	}
}

func (n *Node) attendants() []*attendant {
	return []*attendant{n.guard.attendant, n.votes.attendant, n.snapshots.attendant}
}

// diskGauges are the figures of the data directory; there are none in memory.
func (n *Node) diskGauges(all map[string]float64) {
	f := n.storage.files
	if f == nil {
		return
	}
	all["mgr_raft_slowest_write_seconds"] = n.guard.slowest.get().Seconds()
	if b, err := disk.Used(f.fs, filepath.Join(f.dir, "log")); err == nil {
		all["mgr_raft_log_bytes"] = float64(b)
	}
	if b, err := disk.Used(f.fs, filepath.Join(f.dir, "snapshots")); err == nil {
		all["mgr_raft_snapshot_bytes"] = float64(b)
	}
	if free, _, err := f.fs.Space(f.dir); err == nil {
		all["mgr_raft_disk_free_bytes"] = float64(free)
	}
}

// closeStorage is called when nobody uses the storage any more. A disk that hangs is not waited for.
func (n *Node) closeStorage() error {
	if n.storage == nil {
		return nil
	}
	if n.guard != nil {
		ended := true
		for _, a := range n.attendants() {
			ended = a.close(n.config.Timing.Write) && ended
		}
		if !ended {
			return fmt.Errorf("close the storage: %w", ErrDiskHangs)
		}
	}
	if n.storage.files != nil && n.Err() != nil {
		n.storage.files.opened = false // nothing more is written after a failure
	}
	return n.storage.close()
}

// openRaft starts raft on a goroutine of its own, which ends where raft would panic.
func (n *Node) openRaft(log *hclogger) error {
	err := errors.New("raft did not start")
	n.sickness.running.Store(true)
	n.reading.Store(true)
	defer n.reading.Store(false)
	var opening sync.WaitGroup
	opening.Go(func() {
		n.raft, err = raft.NewRaft(n.raftConfig(log), adapter{n}, n.guard, n.votes, n.snapshots, n.transport)
	})
	opening.Wait()
	if n.raft != nil {
		n.running.Store(n.raft)
	}
	if failed := n.Err(); failed != nil {
		return failed // raft would go on with an older snapshot
	}
	return err
}

// unreadable ends a peer whose snapshot cannot be made its state. Where raft opens it would go on with an older one and panic for want of
// the log between.
func (n *Node) unreadable(err error) {
	switch {
	case errors.Is(err, fsm.ErrNewer):
		n.fail(err)
	case errors.Is(err, fsm.ErrCorrupt):
		n.reinstall(err)
	default:
		return
	}
	if n.reading.Load() {
		n.sickness.end()
	}
}

// handOver asks the voter whose log goes furthest to stand for election at once, when the disk of this leader hangs: raft steps down
// then, but the others would only find out by its silence.
func (n *Node) handOver() {
	if n.Term() == 0 || n.ctx.Err() != nil {
		return
	}
	n.wg.Go(func() {
		voters, _ := n.voters()
		best, at := -1, peerStatus{}
		for i, st := range n.survivors(voters, n.config.ID) {
			if st != nil && !st.Full && (best < 0 || cmp.Or(cmp.Compare(st.LastTerm, at.LastTerm), cmp.Compare(st.LastIndex, at.LastIndex)) > 0) {
				best, at = i, *st
			}
		}
		if best < 0 {
			return
		}
		to := voters[best]
		n.config.Log.Error("the disk hangs: handing leadership over", "to", to.ID, "dir", n.config.Dir)
		if err := n.nominate(to.ID, to.Address); err != nil {
			n.config.Log.Warn("cannot hand leadership over", "to", to.ID, "error", err)
		}
	})
}

// guardedVote is the raft.StableStore that raft sees.
type guardedVote struct {
	raft.StableStore
	attendant *attendant
	deadline  time.Duration
	sickness  *sickness
}

func (g *guardedVote) do(what func() error) error {
	err := g.attendant.do(g.deadline, g.sickness.judged(what), none, none)
	if errors.Is(err, ErrDiskHangs) || errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("store term and vote: %w", err)
		g.sickness.fail(err)
	}
	return err
}

// note writes what can wait: a disk that hangs then is noticed by whoever cannot wait. What fails is judged.
func (g *guardedVote) note(what func() error) error {
	return g.attendant.do(g.deadline, g.sickness.judged(what), none, none)
}

// Set implements raft.StableStore.
func (g *guardedVote) Set(key, value []byte) error {
	key, value = append([]byte{}, key...), append([]byte{}, value...)
	return g.do(func() error { return g.StableStore.Set(key, value) })
}

// SetUint64 implements raft.StableStore.
func (g *guardedVote) SetUint64(key []byte, value uint64) error {
	key = append([]byte{}, key...)
	err := g.do(func() error { return g.StableStore.SetUint64(key, value) })
	if err != nil && string(key) == keyTerm {
		g.sickness.end()
	}
	return err
}

// guardedSnapshots is the raft.SnapshotStore that raft sees: an operation on a disk that hangs fails, so that a snapshot which is being
// installed does not hold up the peer for ever.
type guardedSnapshots struct {
	raft.SnapshotStore
	attendant *attendant
	deadline  time.Duration
	sickness  *sickness
	again     func() // is called when a snapshot cannot be read: the state in memory is good for another one
}

func (g *guardedSnapshots) do(what func() error, undo func()) error {
	err := g.attendant.do(g.deadline, g.sickness.judged(what), undo, none)
	if errors.Is(err, ErrDiskHangs) {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	return err
}

// Create implements raft.SnapshotStore.
func (g *guardedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	var sink raft.SnapshotSink
	err := g.do(func() (err error) {
		sink, err = g.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
		return err
	}, func() { _ = sink.Cancel() })
	if err != nil {
		return nil, err
	}
	return &guardedSink{SnapshotSink: sink, g: g}, nil
}

// Open implements raft.SnapshotStore. It reads the whole snapshot first, which may take long.
func (g *guardedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := g.SnapshotStore.Open(id)
	if errors.Is(err, ErrDamaged) && g.sickness.running.Load() {
		g.again()
		return nil, nil, err
	}
	return meta, r, g.sickness.judge(err)
}

type guardedSink struct {
	raft.SnapshotSink
	g   *guardedSnapshots
	buf []byte
}

func (k *guardedSink) Write(b []byte) (int, error) {
	k.buf = append(k.buf[:0], b...) // it may be written when the caller no longer waits
	buf := k.buf
	err := k.g.do(func() error {
		_, err := k.SnapshotSink.Write(buf)
		return err
	}, none)
	if err != nil {
		k.buf = nil
		return 0, err
	}
	return len(b), nil
}

func (k *guardedSink) Close() error  { return k.g.do(k.SnapshotSink.Close, none) }
func (k *guardedSink) Cancel() error { return k.g.do(k.SnapshotSink.Cancel, none) }
