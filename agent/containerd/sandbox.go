package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mgr/agent"
	"mgr/agent/cgroup"
)

// sandbox is what the containers of a pod share: a directory with the files net, ipc and uts, each a bind mount of a
// namespace that lives as long as the mount; shm, a tmpfs for /dev/shm; and sandbox.json, the specification.
type sandbox struct {
	spec    agent.SandboxSpec
	dir     string
	created time.Time
	cgroups *cgroup.FS
	infra   string // id of the container that holds the shared PID namespace

	setup sync.Mutex // serialises making and removing the sandbox

	// life serialises making and burying tasks of the pod: they share a shim, which ends with its last task.
	life  sync.Mutex
	tasks int
	shim  *shim // of the tasks; nil if containerd takes care of it
}

// sandboxFile is the content of sandbox.json.
type sandboxFile struct {
	Spec    agent.SandboxSpec
	Created time.Time
}

const shmSize = 64 << 20 // bytes, as everywhere

func (s *sandbox) path(name string) string { return filepath.Join(s.dir, name) }

// pins lists the namespaces that the sandbox has of its own, by file name.
func (s *sandbox) pins() map[string]int {
	pins := map[string]int{}
	if s.spec.UserNS != nil {
		pins["user"] = unix.CLONE_NEWUSER
	}
	if !s.spec.HostNetwork {
		pins["net"] = unix.CLONE_NEWNET
		pins["uts"] = unix.CLONE_NEWUTS
	}
	if !s.spec.HostIPC {
		pins["ipc"] = unix.CLONE_NEWIPC
	}
	return pins
}

func (s *sandbox) face() agent.Sandbox {
	out := agent.Sandbox{Pod: s.spec.Pod, Created: s.created}
	if !s.spec.HostNetwork {
		out.NetNS = s.path("net")
	}
	return out
}

// alive says whether all pins hold a namespace; after a reboot they do not.
func (s *sandbox) alive() bool {
	for name := range s.pins() {
		var fs unix.Statfs_t
		if err := unix.Statfs(s.path(name), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
			return false
		}
	}
	return true
}

// EnsureSandbox implements agent.Runtime.
func (r *Runtime) EnsureSandbox(ctx context.Context, spec agent.SandboxSpec) (agent.Sandbox, error) {
	uid := spec.Pod.UID
	if uid == "" || uid != filepath.Base(uid) || uid[0] == '.' {
		return agent.Sandbox{}, fmt.Errorf("pod %s/%s has an impossible UID %q", spec.Pod.Namespace, spec.Pod.Name, uid)
	}
	if h, err := r.handler(spec.Handler); err != nil {
		return agent.Sandbox{}, err
	} else if spec.UserNS != nil && !h.UserNamespaces && keepsState(r.layout) {
		return agent.Sandbox{}, errNotYetUserNS
	} else if spec.UserNS != nil && !h.UserNamespaces {
		return agent.Sandbox{}, errNoUserNS
	}
	r.mu.Lock()
	s := r.sandboxes[uid]
	if s == nil {
		s = &sandbox{dir: r.layout.sandbox(uid), cgroups: r.cgroups}
		r.sandboxes[uid] = s
	}
	r.mu.Unlock()

	s.setup.Lock()
	defer s.setup.Unlock()
	if !s.created.IsZero() && s.alive() {
		if err := r.SetCgroup(ctx, s.spec.CgroupParent, spec.Limits); err != nil {
			return agent.Sandbox{}, err
		}
		return s.face(), r.ensureInfra(ctx, s)
	}
	s.spec, s.created = spec, time.Now()
	err := r.noteCgroup(filepath.Dir(filepath.Join("/", cmp.Or(spec.CgroupParent, Namespace+"/pod"))))
	if err == nil {
		err = s.make()
	}
	if err != nil {
		s.created = time.Time{}
		return agent.Sandbox{}, fmt.Errorf("make the sandbox of pod %s/%s: %w", spec.Pod.Namespace, spec.Pod.Name,
			errors.Join(err, s.unmake()))
	}
	face := s.face()
	face.Fresh = true
	return face, r.ensureInfra(ctx, s)
}

// make writes the directory and pins the namespaces; sandbox.json comes first so that Open finds even a half-made one.
func (s *sandbox) make() error {
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return err
	}
	text, err := json.Marshal(sandboxFile{Spec: s.spec, Created: s.created})
	if err != nil {
		return err
	}
	if err := writeFile(s.path("sandbox.json"), text); err != nil {
		return err
	}
	if s.spec.CgroupParent != "" {
		if err := s.cgroups.Make(s.spec.CgroupParent); err != nil {
			return err
		}
		if err := s.cgroups.Set(s.spec.CgroupParent, s.spec.Limits); err != nil {
			return err
		}
	}
	if pins := s.pins(); len(pins) > 0 {
		if err := pinNamespaces(s.dir, pins, s.spec); err != nil {
			return err
		}
	}
	if s.spec.HostIPC {
		return nil
	}
	if err := os.MkdirAll(s.path("shm"), 0o711); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=1777,size=%d", shmSize)
	if ids := s.spec.UserNS; ids != nil {
		options += fmt.Sprintf(",uid=%d,gid=%d", ids.First, ids.First)
	}
	err = unix.Mount("shm", s.path("shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, options)
	if err != nil {
		return fmt.Errorf("mount the pod's /dev/shm: %w", err)
	}
	return nil
}

// unmake undoes make, as far as it went.
func (s *sandbox) unmake() error {
	for _, name := range []string{"net", "uts", "ipc", "user", "pid", "shm"} {
		if err := unmountAll(s.path(name)); err != nil {
			return err
		}
	}
	if err := s.cgroups.Remove(s.spec.CgroupParent); err != nil {
		return err
	}
	return os.RemoveAll(s.dir)
}

// unmountAll unmounts everything stacked on path; nothing mounted there, or nothing there, is fine.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// RemoveSandbox implements agent.Runtime.
func (r *Runtime) RemoveSandbox(ctx context.Context, podUID string) error {
	r.mu.Lock()
	s := r.sandboxes[podUID]
	var ids []string
	for id, c := range r.containers {
		if c.info.Pod.UID == podUID {
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	for _, id := range ids {
		if err := r.RemoveContainer(ctx, id); err != nil {
			return err
		}
	}
	if s == nil {
		return nil
	}
	s.setup.Lock()
	defer s.setup.Unlock()
	if err := s.unmake(); err != nil {
		return fmt.Errorf("remove the sandbox of pod %s: %w", podUID, err)
	}
	s.created = time.Time{}
	r.mu.Lock()
	delete(r.sandboxes, podUID)
	r.mu.Unlock()
	if s.shim == nil { // nobody has watched it
		return r.shims.sweep()
	}
	return nil
}

// Sandboxes implements agent.Runtime.
func (r *Runtime) Sandboxes(context.Context) ([]agent.Sandbox, error) {
	r.mu.Lock()
	all := make([]*sandbox, 0, len(r.sandboxes))
	for _, s := range r.sandboxes {
		all = append(all, s)
	}
	r.mu.Unlock()
	out := make([]agent.Sandbox, 0, len(all))
	for _, s := range all {
		s.setup.Lock()
		if !s.created.IsZero() {
			out = append(out, s.face())
		}
		s.setup.Unlock()
	}
	return out, nil
}

// sandboxOf returns the sandbox of a pod.
func (r *Runtime) sandboxOf(uid string) (*sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[uid]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("pod %s has no sandbox", uid)
}

// loadSandboxes finds the sandboxes of an earlier agent. One whose pins do not hold any more is removed: what ran in it is
// dead since the machine stopped.
func (r *Runtime) loadSandboxes() error {
	entries, err := os.ReadDir(r.layout.sandboxes())
	if err != nil {
		return fmt.Errorf("find existing sandboxes: %w", err)
	}
	for _, e := range entries {
		s, err := readSandbox(r.cgroups, r.layout.sandbox(e.Name()))
		if err == nil && s.alive() {
			r.sandboxes[e.Name()] = s
			continue
		}
		if err := s.unmake(); err != nil {
			return fmt.Errorf("remove the dead sandbox %s: %w", e.Name(), err)
		}
	}
	return nil
}

// readSandbox reads a sandbox's directory; with an error, what it returns is good for unmake only.
func readSandbox(cgroups *cgroup.FS, dir string) (*sandbox, error) {
	s := &sandbox{dir: dir, cgroups: cgroups}
	var file sandboxFile
	text, err := os.ReadFile(s.path("sandbox.json"))
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	s.spec, s.created = file.Spec, file.Created
	return s, err
}

// noteCgroup records, once, a cgroup in which pods' cgroups are made.
func (r *Runtime) noteCgroup(parent string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.noted[parent] {
		return nil
	}
	f, err := os.OpenFile(r.layout.cgroupParents(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("record the pod's cgroup: %w", err)
	}
	_, err = fmt.Fprintln(f, parent)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("record the pod's cgroup: %w", err)
	}
	r.noted[parent] = true
	return nil
}
