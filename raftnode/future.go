package raftnode

import (
	"reflect"

	"github.com/hashicorp/raft"
)

// settle waits for what raft says of a future. raft never answers what it had committed but not applied when it was shut down: the
// state machine's goroutine ends and leaves its queue (hashicorp/raft v1.7.3, fsm.go, runFSM). Whoever waits, Close among them,
// would wait for ever. Futures have a field by which raft ends the waiting for some of them; settle sets it for these, to a
// channel that is closed when raft has been shut down. The error is raft.ErrRaftShutdown then: the outcome is not known.
func (n *Node) settle(f raft.Future) error {
	endWith(f, n.down)
	return f.Error()
}

// endWith makes f.Error return when down is closed; false: it cannot, or need not as f has its answer.
func endWith(f raft.Future, down chan struct{}) bool {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	field := v.Elem().FieldByName("ShutdownCh")
	if !field.IsValid() || !field.CanSet() || field.Type() != reflect.TypeOf(down) {
		return false
	}
	field.Set(reflect.ValueOf(down))
	return true
}
