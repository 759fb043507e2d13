package raftnode

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrQuarantined: the state of this peer is known to be wrong. It serves nothing and stops soon, to be installed anew.
var ErrQuarantined = errors.New("this master's state is wrong and it serves nothing; it will be installed anew from the other masters")

// quarantineFor is how long a quarantined peer stays to say so, to monitoring and to the members' list, before it stops.
const quarantineFor = 5 * time.Second

// quarantine is the end of a peer whose state is wrong.
type quarantine struct {
	closed chan struct{}
	err    error // set before closed is
}

// quarantine takes this peer out, once: it answers no reads, writes and votes any more, gives leadership away if it has it, to one of
// those that are right, and ends itself to be installed anew.
func (n *Node) quarantine(reason error, right map[string]bool) {
	if n.Quarantined() != nil {
		return
	}
	n.wrong.err = fmt.Errorf("%w: %w", ErrQuarantined, reason)
	close(n.wrong.closed)
	n.config.Log.Error("this master is quarantined", "error", n.wrong.err)
	ctx, cancel := context.WithTimeout(n.ctx, quarantineFor)
	defer cancel()
	n.giveAway(ctx, right)
	<-ctx.Done()
	if n.ctx.Err() == nil {
		n.reinstall(reason)
	}
}

// giveAway hands leadership to a peer whose state is right. When that fails, stopping leads to an election.
func (n *Node) giveAway(ctx context.Context, right map[string]bool) {
	voters, _ := n.voters()
	for _, v := range voters {
		if n.Term() == 0 || ctx.Err() != nil {
			return
		}
		if !right[string(v.ID)] {
			continue
		}
		if err := n.transfer(ctx, v); err != nil {
			n.config.Log.Warn("cannot hand leadership to a master whose state is right", "to", v.ID, "error", err)
		}
	}
}

// Quarantine is closed when this peer must not serve any more; Quarantined says why.
func (n *Node) Quarantine() <-chan struct{} { return n.wrong.closed }

// Quarantined is nil as long as nothing is known to be wrong with the state of this peer.
func (n *Node) Quarantined() error {
	select {
	case <-n.wrong.closed:
		return n.wrong.err
	default:
		return nil
	}
}
