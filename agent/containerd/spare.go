package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	sandboxapi "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"mgr/agent/process"
)

// WarmShim, as an environment variable, makes the shim's executable serve at once, on the listener that is its file 3, for
// whichever pod will want it. Its standard input ends with the agent: until it has a container, it then ends too.
const WarmShim = "MGR_WARM_SHIM"

const (
	// sandboxID names the one sandbox that containerd knows, the same for every pod. containerd starts a shim of its own for a
	// container unless it belongs to a sandbox; then it takes the address of a running one.
	sandboxID  = "mgr"
	shimAPI    = 3 // version of the task service
	spareDelay = 50 * time.Millisecond
)

// shims keeps one shim running ahead of need. To start one costs a third of the time in which a pod starts; so it is done after
// the pod before, and not when somebody waits. Without an executable of ours (a host's containerd, its own shim), there are none
// and containerd starts them as usual.
type shims struct {
	r     *Runtime
	mu    sync.Mutex
	spare *shim
	alive map[*shim]struct{}
	next  *time.Timer
	ended bool

	homes sync.Mutex // held while one is made, and while those without a shim are looked for
}

// shim is a shim process that we have started.
type shim struct {
	home    string // directory of its socket
	address string
	proc    *process.Process
	hold    *os.File // the other end of its standard input; nil for one that an earlier agent started
	used    bool     // it has been given to a pod; guarded by shims.mu
	ended   chan struct{}
}

// dead says that the shim has been seen to end.
func (sh *shim) dead() bool {
	select {
	case <-sh.ended:
		return true
	default:
		return false
	}
}

// open prepares for shims and starts the first.
func (s *shims) open(ctx context.Context) error {
	if s.r.cfg.Shim == "" {
		return nil
	}
	_, err := s.r.client.SandboxStore().Create(ctx, sandboxapi.Sandbox{ID: sandboxID, Runtime: sandboxapi.RuntimeOpts{Name: runtimeName}})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("prepare containerd for shims of ours: %w", err)
	}
	if err := s.sweep(); err != nil {
		return err
	}
	s.refill(0)
	return nil
}

func (s *shims) root() string { return filepath.Join(s.r.layout.Run, "shims") }

// makeHome makes a directory for a shim and a listener on the socket in it.
func (s *shims) makeHome(id string) (home string, file *os.File, err error) {
	s.homes.Lock()
	defer s.homes.Unlock()
	home = filepath.Join(s.root(), id)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return "", nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(home, "s"), Net: "unix"})
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(home))
	}
	listener.SetUnlinkOnClose(false)
	file, err = listener.File()
	return home, file, errors.Join(err, listener.Close())
}

// claim gives the spare shim away, or a new one if there is none; nil if shims are containerd's business.
func (s *shims) claim() (*shim, error) {
	if s.r.cfg.Shim == "" {
		return nil, nil
	}
	s.mu.Lock()
	spare := s.spare
	s.spare = nil
	if spare != nil {
		spare.used = true
	}
	s.mu.Unlock()
	if spare != nil && !spare.dead() {
		return spare, nil
	}
	sh, err := s.start()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.used = true
	return sh, nil
}

// missing says that a pod needs a new shim although containers run in what it had: that one has died, which containerd may not have
// said yet, or it is none of ours.
func (s *shims) missing(sh *shim) bool {
	return s.r.cfg.Shim != "" && (sh == nil || sh.dead())
}

// discard ends a shim that has no container, and that no pod will give one: most have ended by themselves.
func (s *shims) discard(sh *shim) error {
	if sh == nil {
		return nil
	}
	s.mu.Lock()
	sh.used = false
	s.mu.Unlock()
	return sh.proc.Kill()
}

// refill starts the next spare after a while, so as not to compete with the pod that has just taken the last one.
func (s *shims) refill(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r.cfg.Shim == "" || s.ended || s.spare != nil {
		return
	}
	if s.next != nil {
		s.next.Stop()
	}
	s.next = time.AfterFunc(after, func() {
		spare, err := s.start()
		if err != nil {
			s.r.cfg.Log.Warn("start a shim ahead of need", "err", err)
			return
		}
		s.mu.Lock()
		superfluous := s.ended || s.spare != nil
		if !superfluous {
			s.spare = spare
		}
		s.mu.Unlock()
		if superfluous {
			_ = spare.hold.Close()
		}
	})
}

// start executes a shim. It may be connected to at once: the socket is there before the process.
func (s *shims) start() (*shim, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	home, file, err := s.makeHome(id[:16])
	if err != nil {
		return nil, fmt.Errorf("start a shim: %w", err)
	}
	defer file.Close()
	stdin, hold, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start a shim: %w", err)
	}
	defer stdin.Close()

	cmd := exec.Command(s.r.cfg.Shim, "-namespace", Namespace, "-id", id[:16], "-address", s.r.cfg.Address)
	cmd.Dir, cmd.Stdin, cmd.ExtraFiles = home, stdin, []*os.File{file}
	cmd.Env = append(os.Environ(), WarmShim+"=1", "GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "NAMESPACE="+Namespace,
		"GRPC_ADDRESS="+s.r.cfg.Address, "TTRPC_ADDRESS="+s.r.cfg.Address+".ttrpc")
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start a shim: %w", err), hold.Close())
	}
	proc, err := process.Open(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait(), hold.Close())
	}
	sh := &shim{home: home, address: "unix://" + filepath.Join(home, "s"), proc: proc, hold: hold, ended: make(chan struct{})}
	if err := errors.Join(cmd.Process.Release(), preferOverAgent(proc.Pid)); err != nil {
		return nil, errors.Join(fmt.Errorf("start a shim: %w", err), proc.End(0), hold.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch(sh)
	return sh, nil
}

// watch buries the shim when it ends. The caller holds mu.
func (s *shims) watch(sh *shim) {
	s.alive[sh] = struct{}{}
	if s.ended {
		sh.proc.Interrupt()
	}
	s.r.wg.Go(func() {
		if sh.proc.Wait() {
			close(sh.ended)
			_ = os.RemoveAll(sh.home) // if it was killed; the next sweep tries again
		}
		s.mu.Lock()
		delete(s.alive, sh)
		s.mu.Unlock()
		if sh.hold != nil {
			_ = sh.hold.Close()
		}
		_ = sh.proc.Close()
	})
}

// close ends the spare and stops watching the others, which go on.
func (s *shims) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.next != nil {
		s.next.Stop()
	}
	for sh := range s.alive {
		sh.proc.Interrupt() // its watcher closes hold, at which a spare ends
	}
}

// preferOverAgent makes the kernel, when memory is out, take a shim before the agent, as containerd does with its own.
func preferOverAgent(pid int) error {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return err
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(own+1, 1000))), 0)
}
