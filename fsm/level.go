package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Level is a feature level: what the masters of a cluster may write into log entries, snapshots and the state itself. The state
// carries it. It is raised by a system command, once every master knows the new one, and never lowered; until then masters of this
// program and of the one before it read whatever either of them writes.
type Level uint64

const (
	// LevelFirst is the level of clusters from before there were levels: entries of format 1, snapshots of version 1.
	LevelFirst Level = 1
	// LevelSystem adds system commands (entries of format 2), snapshots of version 2, which have sections after the objects, and the
	// level to the state's hash.
	LevelSystem Level = 2

	// Newest is the highest level that this program knows.
	Newest = LevelSystem
)

// Kind says what a system command does. A number is never given to another kind.
type Kind uint64

const (
	// RaiseLevel sets the state's level (System.Level) if that is above the present one.
	RaiseLevel Kind = 1
)

// System is a command that changes the state as a whole and not by objects. It goes alone in its log entry.
type System struct {
	Kind         Kind
	Actor, Cause string // as in Command
	Term         uint64 // as in Command
	Level        Level  // what a peer must know to apply it; for RaiseLevel the level to set
	Data         []byte // by kind; nil for RaiseLevel, see Replacement for the others
}

// An entry of format 2 is
//
//	2(1) crc32c(4, little endian, of the first byte and all that follows)
//	level kind (uvarints) actor cause (strings) term (uvarint) data (string)
//
// The level comes first, so that a master that knows too little can say what it would need. Every later format keeps the checksum's
// place and what it covers, so that a sound entry of the future is told from a damaged one.
const systemVersion = 2

// EncodeSystem makes a log entry of a system command. The error is a *Refusal when it breaks a limit.
func EncodeSystem(s *System) ([]byte, error) {
	if len(s.Data) > MaxCommandBytes {
		return nil, &Refusal{Reason: ReasonInvalid,
			Detail: fmt.Sprintf("the system command has %d bytes, at most %d are allowed", len(s.Data), MaxCommandBytes)}
	}
	actor, cause := clip(s.Actor), clip(s.Cause)
	b := make([]byte, entryHeader, entryHeader+6*binary.MaxVarintLen64+len(actor)+len(cause)+len(s.Data))
	b[0] = systemVersion
	b = binary.AppendUvarint(b, uint64(s.Level))
	b = binary.AppendUvarint(b, uint64(s.Kind))
	b = appendString(b, actor)
	b = appendString(b, cause)
	b = binary.AppendUvarint(b, s.Term)
	b = appendString(b, s.Data)
	binary.LittleEndian.PutUint32(b[1:], systemSum(b))
	return b, nil
}

func systemSum(entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(entry[:1], castagnoli), castagnoli, entry[entryHeader:])
}

// decodeSystem reverses EncodeSystem for a master that knows levels up to known: ErrNewer, ErrCorrupt. Data shares the entry's memory.
func decodeSystem(entry []byte, known Level) (*System, error) {
	if systemSum(entry) != binary.LittleEndian.Uint32(entry[1:]) {
		return nil, fmt.Errorf("log entry with a wrong checksum: %w", ErrCorrupt)
	}
	if entry[0] != systemVersion {
		return nil, newer(fmt.Sprintf("a log entry of format %d", entry[0]), known)
	}
	r := reader{b: entry[entryHeader:]}
	s := &System{Level: Level(r.uvarint())}
	if !r.bad && s.Level > known {
		return nil, newer(fmt.Sprintf("a log entry of feature level %d", s.Level), known)
	}
	s.Kind = Kind(r.uvarint())
	s.Actor, s.Cause = string(r.bytes()), string(r.bytes())
	s.Term = r.uvarint()
	s.Data = r.bytes()
	switch {
	case r.bad || len(r.b) > 0:
		return nil, fmt.Errorf("system command of a log entry does not parse: %w", ErrCorrupt)
	case s.Kind != RaiseLevel && !s.Kind.isReplace():
		return nil, newer(fmt.Sprintf("a system command of kind %d", s.Kind), known)
	}
	return s, nil
}

// newer is the error of a peer that knows too little.
func newer(what string, known Level) error {
	return fmt.Errorf("%s, and this master knows feature levels up to %d: install the version of mgr that the other masters run; "+
		"its data stay as they are: %w", what, known, ErrNewer)
}

// system applies the system command of an entry.
func (w *writer) system(s *System, e *Entry) Result {
	refuse := func(reason Reason, format string, args ...any) Result {
		return Result{Revision: w.revision, Refusal: &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}}
	}
	switch {
	case s.Term != 0 && s.Term != e.Term:
		return refuse(ReasonFenced, "sent by the leader of term %d, the log is at term %d", s.Term, e.Term)
	case s.Kind == RaiseLevel:
		w.level = max(w.level, s.Level)
	case s.Level > w.level:
		return refuse(ReasonInvalid, "it needs feature level %d, the cluster is at %d", s.Level, w.level)
	case s.Kind.isReplace():
		refusal := w.replacement(s, e)
		return Result{Revision: w.revision, Refusal: refusal}
	}
	return Result{Revision: w.revision}
}
