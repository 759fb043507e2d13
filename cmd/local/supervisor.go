package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mgr/cmd/local/netns"
)

// Status of one host.
type Status struct {
	Host
	State    string `json:"state"` // running, paused, restarting, stopped
	Pid      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	LastExit string `json:"lastExit,omitempty"`
	Cut      bool   `json:"cut,omitempty"` // taken off the network
}

// Supervisor owns the hosts of one local cluster.
type Supervisor struct {
	spec  Spec
	exe   string
	order []Host // masters, then nodes
	net   *netns.Net
	log   *slog.Logger

	mu     sync.Mutex
	hosts  map[string]*managed
	ending chan struct{}
	once   sync.Once
}

type managed struct {
	*process
	paused, cut bool
}

// stopGrace is how long a host's process has to end by itself.
const stopGrace = 10 * time.Second

// Supervise runs the supervisor of the cluster in dir until a client asks it to end or ctx is done; then it stops every
// host. Hosts are not started by themselves: Up decides the order.
func Supervise(ctx context.Context, dir string, log *slog.Logger) error {
	spec, err := Load(dir)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	s := &Supervisor{spec: spec, exe: exe, log: log, hosts: map[string]*managed{}, ending: make(chan struct{})}
	if s.net, err = netns.Open(netns.Config{Prefix: spec.Name, Subnet: spec.Subnet}); err != nil {
		return fmt.Errorf("make the cluster's bridge: %w", err)
	}
	if err := s.makeHosts(); err != nil {
		return err
	}
	return s.serve(ctx)
}

// makeHosts creates every host's namespace and directory, or adopts what an earlier supervisor left.
func (s *Supervisor) makeHosts() error {
	s.order = s.spec.Hosts()
	for i := range s.order {
		h := &s.order[i]
		if err := os.MkdirAll(h.Dir, 0o700); err != nil {
			return err
		}
		made, err := s.net.Create(h.Name)
		if err != nil {
			return fmt.Errorf("make host %s: %w", h.Name, err)
		}
		h.IP = made.Addr
		s.hosts[h.Name] = &managed{process: &process{host: *h, log: s.log, start: made.Start}}
	}
	for _, h := range s.order {
		s.hosts[h.Name].args = s.command(h)
	}
	return nil
}

// command is the command line of the host's one process.
func (s *Supervisor) command(h Host) []string {
	if h.Role == Node {
		args := []string{s.exe, "agent", "--node-name", h.Name, "--data-dir", h.Dir, "--node-ip", h.IP.String(),
			"--token-file", tokenPath(s.spec.Dir, "agent"),
			"--cgroup-root", filepath.Join(s.spec.cgroupRoot(), h.Name),
			// A developer's disk is often fuller than a server's should be.
			"--eviction-hard", "memory.available=100Mi,nodefs.available=2%,nodefs.inodesFree=2%,imagefs.available=2%,imagefs.inodesFree=2%",
			"--service-mode", s.spec.ServiceMode, "--balance", s.spec.Balance}
		for _, m := range s.order[:s.spec.Masters] {
			args = append(args, "--join", "https://"+net.JoinHostPort(m.IP.String(), "6443"))
		}
		return append(args, s.spec.AgentArgs...)
	}
	args := []string{s.exe, "server", "--id", h.Name, "--data-dir", h.Dir, "--advertise", h.IP.String()}
	if s.spec.PodCIDR != "" {
		args = append(args, "--pod-cidr", s.spec.PodCIDR)
	}
	if s.spec.NodeGrace != 0 {
		args = append(args, "--node-grace", s.spec.NodeGrace.String())
	}
	if s.spec.Toleration != 0 {
		args = append(args, "--default-toleration", s.spec.Toleration.String())
	}
	first := s.order[0]
	if h.Name == first.Name {
		return append(args, "--cluster-init")
	}
	return append(args, "--join", "https://"+net.JoinHostPort(first.IP.String(), "6443"),
		"--token-file", tokenPath(s.spec.Dir, "server"))
}

// serve answers clients on the unix socket until the end is asked for, then stops all hosts.
func (s *Supervisor) serve(ctx context.Context) error {
	path := socketPath(s.spec.Dir)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hosts", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.status(), nil) })
	mux.HandleFunc("POST /hosts/{name}/{verb}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, s.do(r.PathValue("name"), r.PathValue("verb")))
	})
	mux.HandleFunc("POST /end", func(w http.ResponseWriter, _ *http.Request) {
		err := s.stopAll()
		answer(w, nil, err)
		s.once.Do(func() { close(s.ending) })
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-s.ending:
		}
		err := s.stopAll()
		shut, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return errors.Join(err, srv.Shutdown(shut))
	})
	return g.Wait()
}

// stopAll stops nodes before masters, so that agents do not spend their last second looking for an API.
func (s *Supervisor) stopAll() error {
	var errs []error
	for _, role := range []Role{Node, Master} {
		var g errgroup.Group
		for _, h := range s.hosts {
			if h.host.Role == role {
				g.Go(func() error { return s.stop(h, stopGrace) })
			}
		}
		errs = append(errs, g.Wait())
	}
	return errors.Join(errs...)
}

func (s *Supervisor) stop(h *managed, grace time.Duration) error {
	s.mu.Lock()
	paused := h.paused
	h.paused = false
	s.mu.Unlock()
	if paused {
		if err := h.signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return h.process.stop(grace)
}

// do carries out one verb on one host.
func (s *Supervisor) do(name, verb string) error {
	h, ok := s.hosts[name]
	if !ok {
		return fmt.Errorf("no host %q in this cluster: use one of %v", name, s.spec.names())
	}
	switch verb {
	case "start":
		h.run()
		return nil
	case "stop":
		return s.stop(h, stopGrace)
	case "kill":
		return h.signal(syscall.SIGKILL)
	case "fail":
		return errors.Join(s.cut(h, true), s.stop(h, 0))
	case "pause", "resume":
		sig := syscall.SIGSTOP
		if verb == "resume" {
			sig = syscall.SIGCONT
		}
		s.mu.Lock()
		h.paused = verb == "pause"
		s.mu.Unlock()
		return h.signal(sig)
	case "cut":
		return s.cut(h, true)
	case "heal":
		return s.cut(h, false)
	}
	return fmt.Errorf("unknown action %q: use one of %v", verb, Verbs)
}

// Verbs that a host understands.
var Verbs = []string{"start", "stop", "kill", "pause", "resume", "cut", "heal", "fail"}

func (s *Supervisor) cut(h *managed, cut bool) error {
	op := s.net.Heal
	if cut {
		op = s.net.Cut
	}
	if err := op(h.host.Name); err != nil {
		return err
	}
	s.mu.Lock()
	h.cut = cut
	s.mu.Unlock()
	return nil
}

func (s *Supervisor) status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for _, host := range s.order {
		h := s.hosts[host.Name]
		st := h.status()
		st.Cut = h.cut
		if h.paused && st.State == "running" {
			st.State = "paused"
		}
		all = append(all, st)
	}
	return all
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// A client that went away is its own affair.
	_ = json.NewEncoder(w).Encode(v)
}
