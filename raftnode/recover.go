package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
	"mgr/fsm"
	"mgr/raftnode/disk"
)

// What is done to the data of a stopped peer: to look at them, to make a peer out of a backup (Seed), and to make one that has lost its
// quorum for good the first of a new one (Recover).

// Position is how far a stopped peer's log goes, and what it knows of the others.
type Position struct {
	Term      uint64    `json:"term"` // the latest that it has seen
	LastIndex uint64    `json:"lastIndex"`
	LastTerm  uint64    `json:"lastTerm"`          // of the entry at LastIndex
	LastTime  time.Time `json:"lastTime,omitzero"` // of the last entry that has one, by its leader's clock
	Snapshot  uint64    `json:"snapshot"`          // index of the newest one
	Heard     uint64    `json:"heard"`             // highest index that a leader was known to have committed; see heard.go
	HeardAt   time.Time `json:"heardAt,omitzero"`  // when that was noted
	Epoch     uint64    `json:"epoch"`             // see epoch.go
	Recovered bool      `json:"recovered"`         // a Recover was begun and not ended
	Members   []Member  `json:"members"`           // of the latest configuration: ID, Addr, Role
}

// Committed is the highest index of this log that is certainly committed.
func (p *Position) Committed() uint64 { return max(p.Snapshot, min(p.Heard, p.LastIndex)) }

// Lost is how many committed entries this log is known to lack.
func (p *Position) Lost() uint64 { return p.Heard - min(p.Heard, p.LastIndex) }

// OpenStorage opens the data directory of a stopped peer: an error if a master runs on it.
func OpenStorage(dir string, log *slog.Logger) (*Storage, error) {
	return openStorage(disk.Real(), dir, segmentBytes, &hclogger{log: log})
}

// Close ends the use of a storage that no node uses.
func (s *Storage) Close() error { return s.close() }

// keyRecovering is not 0 while Recover or Seed is at work. (Keys of ours in the stable store have a slash, raft's own do not.)
var keyRecovering = []byte("mgr/recovering")

// number reads a number of the stable store, 0 if there is none.
func (s *Storage) number(key []byte) (uint64, error) {
	b, err := s.value(key, 8)
	if err != nil || b == nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// value reads a value of the stable store, nil if there is none.
func (s *Storage) value(key []byte, size int) ([]byte, error) {
	b, err := s.stable.Get(key)
	if err = missing(err); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	switch len(b) {
	case 0:
		return nil, nil
	case size:
		return b, nil
	}
	return nil, fmt.Errorf("read %s: %d bytes where %d were expected", key, len(b), size)
}

// missing is nil for the error of a value that is not there, which all stores tell in the same words and none by type.
func missing(err error) error {
	if err != nil && err.Error() == errNoValue.Error() {
		return nil
	}
	return err
}

func (s *Storage) keep(key []byte, v uint64) error {
	if err := s.stable.Set(key, binary.BigEndian.AppendUint64(nil, v)); err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	return nil
}

// Examine says where the peer is. Nothing is changed.
func (s *Storage) Examine() (Position, error) {
	p, err := s.position()
	if err != nil {
		return p, fmt.Errorf("look at the log: %w", err)
	}
	return p, nil
}

func (s *Storage) position() (p Position, err error) {
	if p.Term, err = s.stable.GetUint64([]byte(keyTerm)); missing(err) != nil {
		return p, err
	}
	if p.Epoch, err = s.number(keyEpoch); err != nil {
		return p, err
	}
	recovering, err := s.number(keyRecovering)
	if err != nil {
		return p, err
	}
	p.Recovered = recovering != 0
	if p.Heard, p.HeardAt, err = s.heard(); err != nil {
		return p, err
	}
	list, err := s.snapshots.List()
	if err != nil {
		return p, err
	}
	var servers []raft.Server
	if len(list) > 0 {
		p.Snapshot, p.LastIndex, p.LastTerm = list[0].Index, list[0].Index, list[0].Term
		servers = list[0].Configuration.Servers
	}
	if servers, err = s.readLog(&p, servers); err != nil {
		return p, err
	}
	for _, server := range servers {
		p.Members = append(p.Members, Member{ID: string(server.ID), Addr: string(server.Address), Role: role(server, "")})
	}
	return p, nil
}

// readLog reads every entry, and returns the servers of the last configuration.
func (s *Storage) readLog(p *Position, servers []raft.Server) ([]raft.Server, error) {
	first, err := s.log.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := s.log.LastIndex()
	if err != nil || last == 0 {
		return servers, err
	}
	for index := first; index <= last; index++ {
		var l raft.Log
		if err := s.log.GetLog(index, &l); err != nil {
			return nil, fmt.Errorf("read log entry %d: %w", index, err)
		}
		if index > p.LastIndex {
			p.LastIndex, p.LastTerm = l.Index, l.Term
		}
		if !l.AppendedAt.IsZero() {
			p.LastTime = l.AppendedAt
		}
		if l.Type == raft.LogConfiguration && index > p.Snapshot {
			servers = raft.DecodeConfiguration(l.Data).Servers
		}
	}
	return servers, nil
}

// Seed makes a new peer that is the only voter of its cluster and has state. The storage must be empty. The peer begins in term, or
// in 1, and in epoch.
func (s *Storage) Seed(id, addr string, state *fsm.State, term, epoch uint64) error {
	known, err := raft.HasExistingState(s.log, s.stable, s.snapshots)
	if err == nil && known {
		err = errors.New("there is a log already")
	}
	if err == nil {
		err = s.keep(keyRecovering, 1)
	}
	if err == nil {
		err = s.keep(keyEpoch, epoch)
	}
	term = max(term, 1)
	if err == nil {
		err = s.stable.SetUint64([]byte(keyTerm), term)
	}
	if err == nil {
		err = s.writeSnapshot(raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(addr)}, state, term)
	}
	if err == nil {
		err = s.keep(keyRecovering, 0)
	}
	if err != nil {
		return fmt.Errorf("make the data of master %s: %w", id, err)
	}
	return nil
}

func (s *Storage) writeSnapshot(only raft.Server, state *fsm.State, term uint64) error {
	// The transport only encodes addresses, for readers of a version that was never ours.
	_, addresses := raft.NewInmemTransport("")
	index := max(state.Index(), 1)
	sink, err := s.snapshots.Create(raft.SnapshotVersionMax, index, term, raft.Configuration{Servers: []raft.Server{only}}, index, addresses)
	if err != nil {
		return err
	}
	return snapshot{state: state}.Persist(sink)
}

// Recover makes a peer whose quorum is lost the only voter of it, at addr, in a new epoch: every other member is dropped, and kept out until
// it has given up its data (epoch.go). What the log has is kept, committed or not. The next Open leads at once. A Recover that was
// interrupted must be repeated before the peer can be opened.
func (s *Storage) Recover(id, addr string) (epoch uint64, err error) {
	p, err := s.position()
	if err == nil && p.LastIndex == 0 {
		err = errors.New("there is no log: this was never a master, or it has lost its data")
	}
	if err == nil {
		epoch = NextEpoch(p.Epoch)
		err = s.recover(raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(addr)}, &p, epoch)
	}
	if err != nil {
		return 0, fmt.Errorf("recover master %s: %w", id, err)
	}
	return epoch, nil
}

// recover appends a configuration that nobody but this peer has agreed to. All that is before it is committed when it is.
func (s *Storage) recover(only raft.Server, p *Position, epoch uint64) error {
	term := max(p.Term, p.LastTerm) + 1
	if err := s.keep(keyRecovering, 1); err != nil {
		return err
	}
	failpoint.Hit("recover.begun")
	if err := s.stable.SetUint64([]byte(keyTerm), term); err != nil {
		return err
	}
	failpoint.Hit("recover.term.stored")
	if err := s.log.StoreLog(&raft.Log{
		Index: p.LastIndex + 1, Term: term, Type: raft.LogConfiguration, AppendedAt: time.Now(),
		Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{only}}),
	}); err != nil {
		return err
	}
	failpoint.Hit("recover.configured")
	if err := s.keep(keyEpoch, epoch); err != nil {
		return err
	}
	failpoint.Hit("recover.epoch.kept")
	// Its vote was not wanted before it had everything (gate.go); now there is nobody else to have more.
	if err := s.keep(keyFresh, 0); err != nil {
		return err
	}
	return s.keep(keyRecovering, 0)
}

// checkRecovered refuses the data that an interrupted Recover or Seed has left.
func (s *Storage) checkRecovered() error {
	recovering, err := s.number(keyRecovering)
	if err == nil && recovering != 0 {
		err = errors.New("its recovery or restore was interrupted: repeat `mgr recover`, or delete the data directory and repeat `mgr snapshot restore`")
	}
	return err
}

var _ io.Closer = (*Storage)(nil)
