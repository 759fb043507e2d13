// Package fsm is the deterministic state machine that every master peer runs.
//
// # Contract
//
// Apply(index, term, entry) → results is a function: no clock, no randomness, no map iteration that shows, no I/O, no
// goroutine, no logging. The same log gives the same bytes (WriteSnapshot) and the same Hash on every peer. Times,
// UIDs and generated names are stamped into the object before the proposal; what the state machine itself adds is the
// revision (metadata.resourceVersion) and nothing else.
//
// There are three conditional writes: create, update-if, delete-if; a Command holds one or more of them and is applied
// whole or not at all. An entry of the log is a batch of commands, each with its own result (group commit). A command
// may carry the term of the leader whose loop sent it; a command whose term is not the term of its log entry is
// refused, so a deposed leader's controllers are fenced without having to exit. An entry that does not parse is an error
// of Apply, not a refusal: the peer must stop applying, since its peers may have read it.
//
// System commands change the state as a whole and go alone in their entries. What may be written is bounded by the feature level, which
// the state carries (level.go): at level 1 every byte is as the version before levels wrote it.
//
// # Reading
//
// State() returns the last published state: immutable, read without locks, kept as long as somebody holds it. One
// State has one Revision; the revision grows by one for each object that changes, also inside a transaction. An Object
// is immutable and shared by the store, every list and every watch: its Data are finished JSON bytes, its decoded form
// is made at most once (Object.Decoded) and must never be changed by a reader.
//
// # Watching
//
// Each resource has a history of its changes, bounded in events and bytes. A Cursor is a place in that history: it has
// no buffer of its own, so a slow watcher costs nothing and is cut off with ErrCompacted when history has moved past it.
// History is no part of the state and its hash, but of snapshots (from LevelSystem on): a peer that restarts or is given a snapshot
// has the history it had, and cursors, and clients' watches at their revisions, go on. It is equal on all peers as far back as each has it.
//
// The same history answers what there was at an earlier revision (FSM.StateAt), or at a time (State.RevisionAt): the log's entries carry
// the time of the leader that appended them.
package fsm
