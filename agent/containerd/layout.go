package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
)

// Namespace is the containerd namespace in which everything of ours lives.
const Namespace = "mgr"

const runRoot = "/run/mgr"

// taskPlugin is how containerd calls what keeps its tasks, and the directory of that.
const taskPlugin = "io.containerd.runtime.v2.task"

// Layout names every place that the runtime of one node uses, so that several nodes on one machine never meet. Data stands
// below Dir. What has to be short (a socket's address ends at 107 bytes, and containerd appends 65 to the directory of the
// shims' sockets) or should not outlive a reboot stands in Run, below /run, named by a hash of the data directory.
type Layout struct {
	Dir string // the agent's data directory
	Run string // /run/mgr/<hash>
}

// NewLayout returns the places for an agent's data directory; an absolute path.
func NewLayout(dir string) Layout {
	dir = filepath.Clean(dir)
	sum := sha256.Sum256([]byte(dir))
	return Layout{Dir: dir, Run: filepath.Join(runRoot, hex.EncodeToString(sum[:6]))}
}

// Daemon is the home of the embedded containerd: configuration, log, process id, Root and State.
func (l Layout) Daemon() string { return filepath.Join(l.Dir, "containerd") }

// Config is the embedded containerd's configuration file.
func (l Layout) Config() string { return filepath.Join(l.Daemon(), "config.toml") }

// PidFile holds the embedded containerd's process id.
func (l Layout) PidFile() string { return filepath.Join(l.Daemon(), "containerd.pid") }

// Log receives what the embedded containerd says.
func (l Layout) Log() string { return filepath.Join(l.Daemon(), "containerd.log") }

// Root is where containerd keeps images and snapshots.
func (l Layout) Root() string { return filepath.Join(l.Daemon(), "root") }

// State is where containerd keeps the bundles of running containers. Root of a container with a user namespace of its own must
// be able to walk there, which it cannot below Dir. After an upgrade it may be a link: see KeepState.
func (l Layout) State() string { return filepath.Join(l.Run, "state") }

// Bin is where the embedded executables are unpacked.
func (l Layout) Bin() string { return filepath.Join(l.Daemon(), "bin") }

// Address is the embedded containerd's socket.
func (l Layout) Address() string { return filepath.Join(l.Run, "containerd.sock") }

// ShimSockets is the directory of the shims' sockets.
func (l Layout) ShimSockets() string { return filepath.Join(l.Run, "s") }

// RuncRoot is where runc keeps the state of its containers.
func (l Layout) RuncRoot() string { return filepath.Join(l.Run, "runc") }

func (l Layout) sandboxes() string          { return filepath.Join(l.Dir, "sandboxes") }
func (l Layout) sandbox(uid string) string  { return filepath.Join(l.sandboxes(), uid) }
func (l Layout) containers() string         { return filepath.Join(l.Dir, "containers") }
func (l Layout) container(id string) string { return filepath.Join(l.containers(), id) }
func (l Layout) mapped() string             { return filepath.Join(l.Run, "mapped") }
func (l Layout) fifos(id string) string     { return filepath.Join(l.Run, "io", id) }

// bundle and work are containerd's directories of a task.
func (l Layout) bundle(id string) string { return filepath.Join(l.State(), taskPlugin, Namespace, id) }
func (l Layout) work(id string) string   { return filepath.Join(l.Root(), taskPlugin, Namespace, id) }

// homes are the directories in which each container, or command, has one of its own name.
func (l Layout) homes() []string {
	return []string{l.containers(), filepath.Dir(l.fifos("x")), filepath.Dir(l.bundle("x")), filepath.Dir(l.work("x")),
		filepath.Join(l.RuncRoot(), Namespace)}
}

func (l Layout) infraRoot() string { return filepath.Join(l.Dir, "infra") }

// cgroupParents is a file with the cgroups in which pods' cgroups have been made, for Cleanup.
func (l Layout) cgroupParents() string { return filepath.Join(l.Dir, "cgroup-parents") }
