package main

import (
	"io"
	"os"
)

// warmVariable is containerd.WarmShim; that package is too large to be imported here.
const warmVariable = "MGR_WARM_SHIM"

// endUnclaimed ends a shim that was started ahead of need when the agent that holds the other end of its standard input goes
// away before it has got a container.
func (s *service) endUnclaimed() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.mu.Lock()
	s.alone = true
	s.mu.Unlock()
	s.endIfIdle()
}

// endIfIdle ends a shim that has no container and whose agent, the only one to give it another, is gone.
func (s *service) endIfIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone && s.live == 0 {
		removeHome()
		os.Exit(0)
	}
}

// removeHome removes the directory in which a shim started ahead of need has its socket.
func removeHome() {
	if dir, err := os.Getwd(); err == nil {
		_ = os.RemoveAll(dir)
	}
}
