package api

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
)

// recorder notes the status code of an answer.
type recorder struct {
	http.ResponseWriter
	code      int
	notLeader atomic.Bool // nothing was written, because this peer does not lead
}

func (r *recorder) WriteHeader(code int) {
	if code == http.StatusServiceUnavailable && r.notLeader.Load() {
		r.Header().Set(notLeaderHeader, "1")
	}
	if r.code == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) status() int {
	if r.code == 0 {
		return http.StatusOK
	}
	return r.code
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Flush() {
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// wrap returns the recorder with the abilities that the connection has: only HTTP/1.1 can be taken over for upgrades.
func (r *recorder) wrap() http.ResponseWriter {
	if h, ok := r.ResponseWriter.(http.Hijacker); ok {
		return &hijackable{recorder: r, hijacker: h}
	}
	return r
}

type hijackable struct {
	*recorder
	hijacker http.Hijacker
}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h.code = http.StatusSwitchingProtocols
	return h.hijacker.Hijack()
}
