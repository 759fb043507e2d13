package raftnode

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"mgr/failpoint"
	"mgr/fsm"
)

// Peer RPC: requests and answers alternate on a connection, each a 4-byte length (big endian) and that many bytes.
// A request is a method byte and an argument of 0, 8 or 16 bytes; an answer is a status byte and the result.
const (
	methodTerm      = 't' // → current term
	methodReadIndex = 'i' // → index that the leader has confirmed
	methodStatus    = 's' // → JSON of peerStatus
	methodHash      = 'h' // index → state hash at that index
	methodAdmit     = 'a' // number of a life, index → nothing; the fresh peer takes the log from now on
	methodLeader    = 'e' // → JSON of peerStatus, after a look at the leader's port
	methodLinger    = 'l' // → nothing, after a while; at once "not the leader"; ends early also with the process
)

const (
	statusOK        = 0
	statusNotLeader = 1
	statusFailed    = 2 // text follows
)

const maxFrame = 64 << 10

// rpcClient keeps idle connections to the peers.
type rpcClient struct {
	streams  *streams
	contacts *contacts

	mu   sync.Mutex
	idle map[string][]net.Conn // by address
}

const maxIdle = 4 // connections kept for each peer

func (c *rpcClient) take(addr string) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	conns := c.idle[addr]
	if len(conns) == 0 {
		return nil
	}
	conn := conns[len(conns)-1]
	c.idle[addr] = conns[:len(conns)-1]
	return conn
}

func (c *rpcClient) put(addr string, conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle[addr]) >= maxIdle {
		conn.Close()
		return
	}
	c.idle[addr] = append(c.idle[addr], conn)
}

// call sends one request. A connection that was idle may have died with the peer's last process; it is tried once
// more on a new one, which is safe as no method does harm when it comes twice.
func (c *rpcClient) call(ctx context.Context, id, addr string, request []byte) ([]byte, error) {
	for {
		conn := c.take(addr)
		reused := conn != nil
		if !reused {
			var err error
			if conn, err = c.streams.open(ctx, addr, id, connRPC); err != nil {
				return nil, err
			}
		}
		answer, err := exchange(ctx, conn, request)
		if err == nil {
			c.contacts.note(addr)
			c.put(addr, conn)
			return parseAnswer(id, answer)
		}
		conn.Close()
		if !reused || ctx.Err() != nil {
			return nil, fmt.Errorf("ask master %s at %s: %w", id, addr, err)
		}
	}
}

func exchange(ctx context.Context, conn net.Conn, request []byte) ([]byte, error) {
	release := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := writeFrame(conn, request)
	var answer []byte
	if err == nil {
		answer, err = readFrame(conn)
	}
	if !release() {
		return nil, ctx.Err() // the deadline in the past makes the connection useless
	}
	return answer, err
}

func parseAnswer(id string, answer []byte) ([]byte, error) {
	if len(answer) == 0 {
		return nil, fmt.Errorf("master %s sent an empty answer", id)
	}
	switch answer[0] {
	case statusOK:
		return answer[1:], nil
	case statusNotLeader:
		return nil, fmt.Errorf("master %s: %w", id, fsm.ErrNotLeader)
	}
	return nil, fmt.Errorf("master %s: %s", id, answer[1:])
}

// number calls a method that answers with a number.
func (c *rpcClient) number(ctx context.Context, id, addr string, request []byte) (uint64, error) {
	b, err := c.call(ctx, id, addr, request)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("master %s answered %d bytes where 8 were expected", id, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func writeFrame(w io.Writer, b []byte) error {
	frame := make([]byte, 0, 4+len(b))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(b)))
	_, err := w.Write(append(frame, b...))
	return err
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("peer message of %d bytes, at most %d are allowed", n, maxFrame)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// serveRPC answers the requests of one connection until it ends.
func (n *Node) serveRPC(ctx context.Context, conn net.Conn) {
	for {
		request, err := readFrame(conn)
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
		result, err := n.answer(ctx, request)
		cancel()
		answer := append([]byte{statusOK}, result...)
		if errors.Is(err, fsm.ErrNotLeader) {
			answer = []byte{statusNotLeader}
		} else if err != nil {
			answer = append([]byte{statusFailed}, err.Error()...)
		}
		if writeFrame(conn, answer) != nil {
			return
		}
	}
}

func (n *Node) answer(ctx context.Context, request []byte) ([]byte, error) {
	switch {
	case len(request) == 1 && request[0] == methodTerm:
		if err := n.gate.takes(); err != nil {
			return nil, err // what it voted in an earlier life is not known
		}
		return binary.BigEndian.AppendUint64(nil, n.raft.CurrentTerm()), nil
	case len(request) == 1 && request[0] == methodReadIndex:
		index, err := n.leaderReads.wait(ctx)
		n.commits.ask()
		failpoint.Hit("read.index.answered")
		return binary.BigEndian.AppendUint64(nil, index), err
	case len(request) == 17 && request[0] == methodAdmit:
		return nil, n.gate.admit(binary.BigEndian.Uint64(request[1:]), binary.BigEndian.Uint64(request[9:]))
	case len(request) == 1 && request[0] == methodLinger:
		return nil, n.answerLinger(ctx)
	case len(request) == 1 && request[0] == methodLeader:
		st := n.status()
		st.Refused = n.examineLeader(ctx)
		return json.Marshal(st)
	case len(request) == 1 && request[0] == methodStatus:
		return json.Marshal(n.status())
	case len(request) == 9 && request[0] == methodHash:
		index := binary.BigEndian.Uint64(request[1:])
		hash, ok := n.fsm.HashAt(index)
		if !ok {
			return nil, fmt.Errorf("no state hash of log entry %d is kept here", index)
		}
		return binary.BigEndian.AppendUint64(nil, hash), nil
	}
	return nil, errors.New("unknown request; masters of different versions?")
}
