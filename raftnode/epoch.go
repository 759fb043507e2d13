package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// The epoch of a quorum tells it from what it was before it was recovered from a survivor or restored from a backup: masters that come
// back from before have the same certificates, ids and perhaps higher terms, and would undo it. It only ever grows and is 0 for a
// quorum that never was recovered.
//
// Connections between peers of epoch 0 begin as they always did; those of a later epoch begin with it. Peers of different epochs never
// talk: the one of the lower learns of the higher, as the one who calls or as the one who is called, stops, and gives up its data to be
// copied from the others at the next start. A peer without data takes the epoch of whoever calls it.

var keyEpoch = []byte("mgr/epoch")

// NextEpoch is above old and, since it is drawn from the clock and by lot, above or at least other than what somebody makes of another
// survivor: of two quorums that were both recovered one must give way.
func NextEpoch(old uint64) uint64 {
	return max(old+1, uint64(time.Now().UnixMilli())<<20|rand.Uint64N(1<<20))
}

// Epoch of the quorum that this peer belongs to.
func (n *Node) Epoch() uint64 { return n.epoch.Load() }

// CurrentTerm is the latest term that this peer has seen.
func (n *Node) CurrentTerm() uint64 { return n.raft.CurrentTerm() }

// meet is told which epoch another peer has, and says whether it is this one's now.
func (n *Node) meet(theirs uint64) bool {
	n.epochMu.Lock()
	defer n.epochMu.Unlock()
	mine := n.epoch.Load()
	switch {
	case theirs <= mine:
		return theirs == mine
	case !n.gate.empty():
		n.reinstall(fmt.Errorf("the other masters were recovered or restored without it: they are of epoch %d, it is of %d", theirs, mine))
		return false
	}
	if err := n.storage.keep(keyEpoch, theirs); err != nil {
		n.config.Log.Error("cannot join the epoch of the others", "epoch", theirs, "error", err)
		return false
	}
	n.epoch.Store(theirs)
	return true
}

// hello is what a connection begins with.
func (s *streams) hello(kind byte) []byte {
	e := s.epoch()
	if e == 0 {
		return []byte{kind}
	}
	return append(binary.BigEndian.AppendUint64([]byte{connEpoch}, e), kind)
}

// greet reads what a connection begins with; ok says that both ends are of one epoch. A peer that is behind is told so.
func (s *streams) greet(c *stream, patience time.Duration) (kind byte, ok bool) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 9)
	if _, err := io.ReadFull(c, b[:1]); err != nil {
		return 0, false
	}
	theirs := uint64(0)
	if b[0] == connEpoch {
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, false
		}
		theirs, b[0] = binary.BigEndian.Uint64(b), b[8]
	}
	if !s.meet(theirs) {
		s.turnAway(c, theirs, patience)
		return 0, false
	}
	_ = c.SetReadDeadline(time.Time{})
	return b[0], true
}

// turnAway tells a peer of an earlier epoch which one this is. What the peer has sent is read: to close a connection with unread data
// would throw the answer away.
func (s *streams) turnAway(c *stream, theirs uint64, patience time.Duration) {
	mine := s.epoch()
	if theirs >= mine {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.Write(binary.BigEndian.AppendUint64([]byte{connEpoch}, mine)); err == nil {
		_, _ = io.Copy(io.Discard, c.Conn)
	}
}

var errEpoch = errors.New("that master is of a later epoch")

// dialed is a connection that this peer has opened. Neither raft nor our RPC ever answers with a first byte of connEpoch.
type dialed struct {
	net.Conn
	meet     func(epoch uint64) bool
	answered bool // used by the one who reads
}

func (d *dialed) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if d.answered || n == 0 {
		return n, err
	}
	d.answered = true
	if b[0] != connEpoch {
		return n, err
	}
	epoch := make([]byte, 8)
	if _, err := io.ReadFull(d.Conn, epoch[copy(epoch, b[1:n]):]); err != nil {
		return 0, err
	}
	d.meet(binary.BigEndian.Uint64(epoch))
	return 0, errEpoch
}
