package raftnode

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"

	"mgr/raftnode/disk"
	"mgr/raftnode/disk/disktest"
)

const testFileBytes = 8 << 10

func openTestStorage(t *testing.T, fsys disk.FS) (*Storage, error) {
	t.Helper()
	return openStorage(fsys, "/raft", testFileBytes, &hclogger{log: slog.New(slog.DiscardHandler)})
}

// peerModel is what a peer must have after a crash: everything that it was told is stored.
type peerModel struct {
	logs           []*raft.Log // consecutive
	term, voteTerm uint64
	candidate      string
	snapshot       uint64 // index of the newest one
}

// step does one thing that raft does with its storage and notes in the model what it was promised.
func (m *peerModel) step(r *rand.Rand, s *Storage) error {
	next := max(m.snapshot, 0) + 1
	if len(m.logs) > 0 {
		next = m.logs[len(m.logs)-1].Index + 1
	}
	switch r.IntN(12) {
	case 0: // an election: a term, and a vote
		m.term++
		if err := s.stable.SetUint64([]byte(keyTerm), m.term); err != nil {
			m.term--
			return err
		}
		candidate := fmt.Sprint("m", r.IntN(5))
		if err := s.stable.SetUint64([]byte(keyVoteTerm), m.term); err != nil {
			return err
		}
		if err := s.stable.Set([]byte(keyVoteCand), []byte(candidate)); err != nil {
			return err
		}
		m.voteTerm, m.candidate = m.term, candidate
	case 1: // a conflict with a new leader
		if len(m.logs) == 0 {
			return nil
		}
		n := r.IntN(len(m.logs))
		if m.logs[n].Index <= m.snapshot {
			return nil
		}
		logs := m.logs
		m.logs = m.logs[:n:n] // whether or not it comes to an end
		return s.log.DeleteRange(logs[n].Index, logs[len(logs)-1].Index)
	case 2:
		return m.takeSnapshot(r, s)
	case 3:
		return s.files.noteMark()
	default:
		logs := someLogs(r, next, m.term, 1+r.IntN(5), []int{20, 400, 3000}[r.IntN(3)])
		if err := s.log.StoreLogs(logs); err != nil {
			return err
		}
		m.logs = append(m.logs, logs...)
	}
	return nil
}

func (m *peerModel) takeSnapshot(r *rand.Rand, s *Storage) error {
	if len(m.logs) == 0 {
		return nil
	}
	l := m.logs[r.IntN(len(m.logs))]
	if l.Index <= m.snapshot {
		return nil
	}
	k, err := s.snapshots.Create(1, l.Index, l.Term, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(k, fmt.Sprint("state ", l.Index)); err != nil {
		return err
	}
	if err := k.Close(); err != nil {
		return err
	}
	m.snapshot = l.Index
	keep := min(r.IntN(4), len(m.logs)-1)
	if last := m.logs[len(m.logs)-1-keep].Index; last > l.Index {
		return s.log.DeleteRange(m.logs[0].Index, l.Index)
	} else if err := s.log.DeleteRange(m.logs[0].Index, last); err != nil {
		return err
	}
	return nil
}

// check compares what was opened after a crash with what was promised.
func (m *peerModel) check(s *Storage) error {
	term, _ := s.stable.GetUint64([]byte(keyTerm))
	voteTerm, _ := s.stable.GetUint64([]byte(keyVoteTerm))
	candidate, _ := s.stable.Get([]byte(keyVoteCand))
	if term < m.term || voteTerm < m.voteTerm || voteTerm == m.voteTerm && string(candidate) != m.candidate || voteTerm > term {
		return fmt.Errorf("term %d, vote %d for %q; promised were %d, %d for %q", term, voteTerm, candidate, m.term, m.voteTerm, m.candidate)
	}
	m.term, m.voteTerm, m.candidate = term, voteTerm, string(candidate)
	snapshots, err := s.snapshots.List()
	if err != nil {
		return err
	}
	have := uint64(0)
	if len(snapshots) > 0 {
		have = snapshots[0].Index
		_, r, err := s.snapshots.Open(snapshots[0].ID)
		if err != nil {
			return err
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != fmt.Sprint("state ", have) {
			return fmt.Errorf("snapshot %d has %q: %w", have, b, err)
		}
	}
	if have < m.snapshot {
		return fmt.Errorf("the newest snapshot is of %d, promised was one of %d", have, m.snapshot)
	}
	m.snapshot = have
	for _, want := range m.logs {
		var got raft.Log
		if want.Index <= have {
			continue
		}
		if err := s.log.GetLog(want.Index, &got); err != nil || got.Term != want.Term || string(got.Data) != string(want.Data) {
			return fmt.Errorf("entry %d of term %d is %v (%w)", want.Index, want.Term, got.Term, err)
		}
	}
	return m.take(s)
}

// take makes the model what was found, which may be more than was promised.
func (m *peerModel) take(s *Storage) error {
	m.logs = nil
	first, _ := s.log.FirstIndex()
	last, _ := s.log.LastIndex()
	if last > 0 && first > m.snapshot+1 {
		return fmt.Errorf("the log begins at %d, the snapshot ends at %d", first, m.snapshot)
	}
	for i := first; last > 0 && i <= last; i++ {
		l := &raft.Log{}
		if err := s.log.GetLog(i, l); err != nil {
			return err
		}
		m.logs = append(m.logs, l)
	}
	if last < m.snapshot { // raft goes on behind the snapshot
		m.logs = nil
	}
	return nil
}

// TestPromisesSurviveCrashes takes the power from a peer's disk at any operation of it, again and again: all that it was told is stored is
// there, and nothing that a crash left passes for damage.
func TestPromisesSurviveCrashes(t *testing.T) {
	crashes := 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 7))
		d := disktest.New(seed)
		m := &peerModel{}
		for range 12 {
			s, err := openTestStorage(t, d.Mount())
			if err == nil {
				err = m.check(s)
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			left := r.IntN(120)
			d.SetFault(func(disktest.Op, string) error {
				if left--; left < 0 {
					return errPowerCut
				}
				return nil
			})
			for err == nil {
				err = m.step(r, s)
			}
			if !errors.Is(err, errPowerCut) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			d.SetFault(nil)
			if r.IntN(4) == 0 {
				d.Kill()
			} else {
				d.Crash()
			}
			crashes++
			_ = s.close() // says that the disk is gone
		}
	}
	t.Logf("%d crashes", crashes)
}

var errPowerCut = errors.New("power cut")
