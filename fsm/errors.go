package fsm

import "errors"

var (
	// ErrNotLeader: this peer does not lead; nothing was written. Ask the leader.
	ErrNotLeader = errors.New("this master is not the leader")
	// ErrUnknown: leadership or the connection was lost while the entry was on its way; it may or may not be applied.
	ErrUnknown = errors.New("the outcome of the write is unknown: leadership was lost while it was committed")
	// ErrFull: nothing was written, because the disk of the data directory is almost full. Reads go on.
	ErrFull = errors.New("the data directory is full: writes are refused until there is free space, reads go on")
	// ErrBusy: nothing was written, because too many writes are waiting. Try again later.
	ErrBusy = errors.New("too many writes are waiting")
	// ErrCompacted: the revision asked for is older than the history that is kept (HTTP 410).
	ErrCompacted = errors.New("the requested revision is too old: the history no longer has it")
	// ErrFuture: the revision asked for is newer than the state.
	ErrFuture = errors.New("the requested revision is in the future")
)
