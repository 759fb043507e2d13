package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
)

// The agent tells on the error stream how a command ended. Clients read an error stream that ends without a word as success, so
// that a command whose agent dies would seem to have succeeded. Therefore the master says then what the agent no longer could.

// SPDY/3.1, as far as it matters here: https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/ 2.2 and 2.6.
const (
	spdyHead      = 8                          // bytes before a frame's content; the last three are the content's length
	spdyReset     = 0x8003<<16 | 3             // control bit, version 3, RST_STREAM
	spdyGoAway    = 0x8003<<16 | 7             // … GOAWAY
	spdyFin       = 1                          // a data frame's flag
	spdyErrors    = 1                          // the stream that clients open first is that of errors
	spdyHeadLimit = http.DefaultMaxHeaderBytes // bytes of the answer before the frames
)

// ending returns a transport over rt's connections which never lets a stream of exec or attach end without a status.
func ending(rt http.RoundTripper, node string) (http.RoundTripper, error) {
	dial, err := utilnet.DialerFor(rt)
	if err != nil {
		return nil, fmt.Errorf("reaching node %s: %w", node, err)
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &endingConn{Conn: conn, in: bufio.NewReader(conn), node: node, next: (*endingConn).answer}, nil
	}}, nil
}

// endingConn is a connection to an agent; one goroutine at a time reads.
type endingConn struct {
	net.Conn
	in   *bufio.Reader
	node string
	told bool                    // the agent has said how the command ended
	next func(*endingConn) error // appends to out
	out  []byte
	err  error // after out
}

// Read implements net.Conn.
func (c *endingConn) Read(p []byte) (int, error) {
	for len(c.out) == 0 && c.err == nil {
		c.err = c.next(c)
	}
	if len(c.out) == 0 {
		return 0, c.err
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// answer hands on the head of the agent's answer; only when that is SPDY, and statuses are JSON, frames follow.
func (c *endingConn) answer() error {
	for !bytes.HasSuffix(c.out, []byte("\r\n\r\n")) {
		line, err := c.in.ReadSlice('\n')
		c.out = append(c.out, line...)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if len(c.out) > spdyHeadLimit {
			return fmt.Errorf("the answer of node %s has no end of its head", c.node)
		}
	}
	c.next = (*endingConn).asItIs
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(c.out)), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		return nil // the reader of this will see for itself
	}
	switch resp.Header.Get("X-Stream-Protocol-Version") {
	case constants.StreamProtocolV4Name, constants.StreamProtocolV5Name:
		c.next = (*endingConn).frame
	}
	return nil
}

func (c *endingConn) asItIs() error {
	if _, err := c.in.Peek(1); err != nil {
		return err
	}
	c.out = make([]byte, c.in.Buffered())
	_, err := io.ReadFull(c.in, c.out)
	return err
}

// frame hands on one whole frame, before which a status may have to stand. What is left of a frame at a broken end is dropped.
func (c *endingConn) frame() error {
	head, err := c.in.Peek(spdyHead)
	if err != nil {
		return c.broken(err)
	}
	kind := binary.BigEndian.Uint32(head)
	flags, size := head[4], int(binary.BigEndian.Uint32(head[4:])&0xffffff)
	frame := make([]byte, spdyHead+size)
	if _, err := io.ReadFull(c.in, frame); err != nil {
		return c.broken(err)
	}
	last := kind == spdyGoAway || kind == spdyErrors && flags&spdyFin != 0 ||
		kind == spdyReset && size >= 4 && binary.BigEndian.Uint32(frame[spdyHead:]) == spdyErrors
	c.told = c.told || kind == spdyErrors && size > 0
	if last {
		if err := c.tell(); err != nil {
			return err
		}
	}
	c.out = append(c.out, frame...)
	return nil
}

// broken is the end; err stays what it is, for readers that compare it with io.EOF.
func (c *endingConn) broken(err error) error {
	if e := c.tell(); e != nil {
		return e
	}
	return err
}

// tell appends a status in the place of the one that the agent owes.
func (c *endingConn) tell() error {
	if c.told {
		return nil
	}
	c.told = true
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Reason: metav1.StatusReasonServiceUnavailable, Code: http.StatusServiceUnavailable,
		Message: fmt.Sprintf("the connection to node %s broke before it had told how the command ended: its agent was restarted, or cannot be reached", c.node),
	}
	text, err := json.Marshal(status)
	if err != nil {
		return err
	}
	c.out = binary.BigEndian.AppendUint32(c.out, spdyErrors)
	c.out = binary.BigEndian.AppendUint32(c.out, spdyFin<<24|uint32(len(text)))
	c.out = append(c.out, text...)
	return nil
}
