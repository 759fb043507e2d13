package containerd

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeSize is how much a pipe holds.
const pipeSize = 64 << 10

// outPipe is the agent's end of an output pipe. It is read in two steps, look and take, so that what is not yet in the log is still
// in the pipe, which outlives the agent: an agent that is killed at any moment loses nothing of a container's output.
type outPipe struct {
	file *os.File
	conn syscall.RawConn
	kits *kits
}

// openOutput opens the reading end of an output pipe: a new one, which the shim has not opened yet, or one that an earlier agent
// made.
func openOutput(path string, adopt bool, kits *kits) (*outPipe, error) {
	if !adopt {
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
	} else {
		// A reader is told that the writers have gone only if there was one after it came: here one that goes at once.
		w, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		defer w.Close()
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &outPipe{file: f, conn: conn, kits: kits}, nil
}

// look waits until the pipe holds more than held bytes, or all its writers have gone, and returns all that it holds, which stays in
// the pipe. The kit carries the data; it must be put back. An error means that the agent has let go of the pipe.
func (p *outPipe) look(held int) (k *kit, ended bool, err error) {
	var failed error
	err = p.conn.Read(func(fd uintptr) bool {
		var gone bool
		// In this order: what was written before the end is seen before it.
		if gone, failed = hungUp(fd); failed != nil {
			return true
		}
		if k, failed = p.kits.get(); failed != nil {
			return true
		}
		if failed = k.copy(int(fd)); failed != nil || len(k.data) > held || gone {
			ended = gone && len(k.data) <= held
			return true
		}
		p.kits.put(k)
		k = nil
		return false
	})
	if err = errors.Join(err, failed); err != nil && k != nil {
		p.kits.put(k)
		k = nil
	}
	return k, ended, err
}

// take removes n bytes from the pipe, which it holds. buf is room to read them into. A let-go in the middle does not stop it: what is
// logged must not be there for the next agent.
func (p *outPipe) take(n int, buf []byte) error {
	var failed error
	err := p.conn.Control(func(fd uintptr) {
		for n > 0 && failed == nil {
			var got int64
			got, failed = ignoreIntr(func() (int64, error) {
				got, err := unix.Read(int(fd), buf[:min(n, len(buf))])
				return int64(got), err
			})
			n -= int(got)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("take what is logged from its pipe: %w", err)
	}
	return nil
}

// letGo makes look return; the pump then closes the pipe.
func (p *outPipe) letGo() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) }

func hungUp(fd uintptr) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("poll an output pipe: %w", err)
		}
		return fds[0].Revents&unix.POLLHUP != 0, nil
	}
}

// kit is what it takes to look into a pipe: another pipe, which the kernel copies into, and memory.
type kit struct {
	r, w int
	buf  []byte
	data []byte // the part of buf that is filled

	broken bool // its pipe may hold what was not read
}

// copy reads what fd holds without removing it.
func (k *kit) copy(fd int) error {
	k.data = k.buf[:0]
	n, err := ignoreIntr(func() (int64, error) { return unix.Tee(fd, k.w, pipeSize, unix.SPLICE_F_NONBLOCK) })
	if errors.Is(err, unix.EAGAIN) || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into an output pipe: %w", err)
	}
	for int64(len(k.data)) < n {
		got, err := ignoreIntr(func() (int64, error) {
			got, err := unix.Read(k.r, k.buf[len(k.data):n])
			return int64(got), err
		})
		if err != nil {
			k.broken = true
			return fmt.Errorf("read what an output pipe holds: %w", err)
		}
		k.data = k.buf[:int64(len(k.data))+got]
	}
	return nil
}

func ignoreIntr(call func() (int64, error)) (int64, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// kits lends out kits, so that a container that says nothing costs none. A few stay for the next.
type kits struct {
	mu     sync.Mutex
	free   []*kit
	closed bool
}

const spareKits = 4

func (s *kits) get() (*kit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		k := s.free[n-1]
		s.free = s.free[:n-1]
		return k, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	return &kit{r: fds[0], w: fds[1], buf: make([]byte, pipeSize)}, nil
}

// put takes a kit back. One whose pipe may not be empty is not lent again.
func (s *kits) put(k *kit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < spareKits && !s.closed && !k.broken {
		s.free = append(s.free, k)
		return
	}
	_ = unix.Close(k.r)
	_ = unix.Close(k.w)
}

// close gives back what nobody has borrowed; the rest follows when it is put back.
func (s *kits) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, k := range s.free {
		_ = unix.Close(k.r)
		_ = unix.Close(k.w)
	}
	s.free = nil
}
