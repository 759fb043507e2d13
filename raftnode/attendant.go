package raftnode

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// ErrDiskHangs: an operation of the disk did not end in time.
var ErrDiskHangs = errors.New("the disk of the data directory hangs")

// attendant carries out operations of the disk, one after another, so that whoever asked can stop waiting. One goroutine runs work.
type attendant struct {
	jobs   chan func()
	busy   chan struct{} // holds a token while an operation is under way
	closed chan struct{} // nobody is to ask any more
	ended  chan struct{}
}

// errStorageClosed: raft, which is not always waited for when it is shut down beside a sick disk, asked once more.
var errStorageClosed = errors.New("the storage is closed")

func newAttendant() *attendant {
	return &attendant{jobs: make(chan func()), busy: make(chan struct{}, 1), closed: make(chan struct{}), ended: make(chan struct{})}
}

func (a *attendant) work() {
	defer close(a.ended)
	for {
		select {
		case job := <-a.jobs:
			job()
		case <-a.closed:
			return
		}
	}
}

// close ends the attendant when nobody asks it any more. false: the disk still hangs at the end of patience, and the goroutine is left to it.
func (a *attendant) close(patience time.Duration) bool {
	close(a.closed)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-a.ended:
		return true
	case <-timer.C:
		return false
	}
}

// do carries out what, and meanwhile beside it. When what has not ended within the deadline the error is ErrDiskHangs; if it ends later
// without an error undo is run before any other operation, because whoever asked was told that it failed.
func (a *attendant) do(deadline time.Duration, what func() error, undo, meanwhile func()) error {
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case a.busy <- struct{}{}:
	case <-timer.C:
		return fmt.Errorf("the last operation has not ended: %w", ErrDiskHangs)
	}
	var settled atomic.Bool // by whoever comes first: the end of the operation or the end of patience
	result := make(chan error, 1)
	job := func() {
		defer func() { <-a.busy }()
		err := what()
		if settled.CompareAndSwap(false, true) {
			result <- err
		} else if err == nil {
			undo()
		}
	}
	select {
	case a.jobs <- job:
	case <-a.closed:
		<-a.busy
		return errStorageClosed
	}
	meanwhile()
	select {
	case err := <-result:
		return err
	case <-timer.C:
	}
	if settled.CompareAndSwap(false, true) {
		return fmt.Errorf("it took more than %v: %w", deadline, ErrDiskHangs)
	}
	return <-result
}

func none() {}

// longLock is a mutex that is held while the disk is at work. Whoever waits for it waits by a channel: in tests time is virtual, and
// does not pass while somebody waits for a sync.Mutex.
type longLock chan struct{}

func newLongLock() longLock { return make(longLock, 1) }

func (l longLock) Lock()   { l <- struct{}{} }
func (l longLock) Unlock() { <-l }
