package agent

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"mgr/agent/cgroup"
	"mgr/agent/machine"
	"mgr/agent/registry"
)

// Runtime is the port to the container runtime: the containerd adapter implements it (package agent/containerd), and a
// fake does in tests. Sandboxes and containers carry the pod's identity in labels, so that a restarted agent adopts what
// it finds. All calls are idempotent where the name says Ensure or Remove. Errors wrap context.
type Runtime interface {
	// EnsureSandbox makes the pod's pinned network and IPC namespaces (or adopts them) and its cgroup.
	EnsureSandbox(ctx context.Context, s SandboxSpec) (Sandbox, error)
	// RemoveSandbox removes the pod's remaining containers, namespaces, mounts and cgroup.
	RemoveSandbox(ctx context.Context, podUID string) error
	// SetCgroup makes a cgroup above the containers (of the node, a class or a pod) if it is not there, and limits it.
	SetCgroup(ctx context.Context, name string, l cgroup.Limits) error
	// Cgroup says what a cgroup uses and how it is limited.
	Cgroup(ctx context.Context, name string) (CgroupState, error)
	Sandboxes(ctx context.Context) ([]Sandbox, error)

	// CreateContainer prepares rootfs, OCI spec, log file and task, without starting it.
	CreateContainer(ctx context.Context, c ContainerSpec) (id string, err error)
	StartContainer(ctx context.Context, id string) error
	// UpdateContainer changes the limits of a container that runs.
	UpdateContainer(ctx context.Context, id string, l cgroup.Limits) error
	// StopContainer sends the stop signal, waits up to grace and kills; it returns when the container has exited.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	// Containers lists all containers of this node, dead ones included.
	Containers(ctx context.Context) ([]Container, error)
	// Container is one of them; ErrNoContainer if it is not there.
	Container(ctx context.Context, id string) (Container, error)
	// Exits delivers the ids of containers that stopped; it may miss some while the runtime is away, so callers relist.
	Exits(ctx context.Context) <-chan string

	// Exec runs a process in a running container and returns its exit code. The process is killed when ctx ends; if it ends
	// because of tunnel.ErrClientGone the process is hung up (SIGHUP) and, if that does not end it, goes on without streams.
	Exec(ctx context.Context, id string, e ExecSpec) (exitCode int, err error)
	// Attach connects to the container's own stdio until it ends or ctx is done.
	Attach(ctx context.Context, id string, s Streams) error

	// Image returns ErrNoImage when the reference is not on this node.
	Image(ctx context.Context, ref string) (Image, error)
	// Pull fetches the image from its registry or a mirror of it, with those credentials of ring that fit, and at last without.
	// What is on the node already is not fetched again. It gives up when nothing comes for long.
	Pull(ctx context.Context, ref string, ring registry.Keyring) (Pulled, error)
	// Import reads an OCI or docker archive (optionally gzipped) and returns the references it named.
	Import(ctx context.Context, archive io.Reader) ([]string, error)
	Images(ctx context.Context) ([]Image, error)
	RemoveImage(ctx context.Context, ref string) error
	// Reclaim removes what failed pulls have left for their next attempt. When it returns the disk has the room of all that was removed
	// before, containers among it; without it that takes a while.
	Reclaim(ctx context.Context) error
	// MountImage mounts the merged layers of an image that is on this node at an existing directory, read-only. UnmountImage
	// reverses it; it finds nothing to do when that has been done. The image may be removed meanwhile: the mount stays.
	MountImage(ctx context.Context, ref, path string) error
	UnmountImage(ctx context.Context, path string) error

	// Layer is what a container has written to its root file system, beyond its image.
	Layer(ctx context.Context, id string) (machine.Use, error)
	// Handlers are the OCI runtimes that pods can choose by their class; the first one, named "", is the default.
	Handlers() []Handler
	// Version of the runtime ("containerd://2.4.2"); an error means that it does not answer.
	Version(ctx context.Context) (string, error)
}

// CgroupState is what a cgroup uses and how it is limited; cgroup.None is no limit.
type CgroupState struct {
	cgroup.Usage
	MemoryLimit int64 // bytes
	CPUQuota    int64 // µs each period
}

// Network is the port to the pod network; package netproxy implements it.
type Network interface {
	// Setup gives the namespace its interface, address, routes and host ports, and returns the pod's addresses; repeated
	// calls return the same ones.
	Setup(ctx context.Context, p PodNetwork) ([]netip.Addr, error)
	Teardown(ctx context.Context, podUID string) error
	// Pods lists the UIDs that hold an address, so that the agent can tear down what has no pod any more.
	Pods(ctx context.Context) ([]string, error)
}

// PodNetwork describes one pod to Network.Setup.
type PodNetwork struct {
	UID, Namespace, Name string
	NetNS                string // path of the pinned namespace
	HostPorts            []HostPort
}

// HostPort maps HostIP:HostPort of the node to ContainerPort of the pod.
type HostPort struct {
	Protocol      string // TCP, UDP
	HostIP        string // "" = all
	HostPort      int32
	ContainerPort int32
}

// PodRef identifies a pod in labels, logs and paths.
type PodRef struct{ Namespace, Name, UID string }

// SandboxSpec describes what the containers of a pod share.
type SandboxSpec struct {
	Pod          PodRef
	Hostname     string
	HostNetwork  bool // no network namespace of its own
	HostIPC      bool
	HostPID      bool
	SharePID     bool   // one PID namespace for all containers, held by an infra process
	CgroupParent string // of the pod, as the agent's cgroup layout names it
	Limits       cgroup.Limits
	Sysctls      map[string]string
	Handler      string   // one of Runtime.Handlers
	UserNS       *IDRange // a user namespace of its own; nil: the node's
}

// IDRange are the users and groups of the node that a pod's user namespace has as its own, beginning with root.
type IDRange struct{ First, Count uint32 }

// Handler is one OCI runtime of this node.
type Handler struct {
	Name                    string
	UserNamespaces          bool
	RecursiveReadOnlyMounts bool
}

// Sandbox is an existing sandbox.
type Sandbox struct {
	Pod     PodRef
	NetNS   string // "" with HostNetwork
	Created time.Time
	Fresh   bool // made by this very call, not found
}

// ContainerSpec describes one container to be created; everything is resolved (env expanded, mounts on disk, user and
// limits decided), so that the adapter only translates.
type ContainerSpec struct {
	Pod                   PodRef
	Name                  string
	Attempt               int // restart count; part of the container's identity
	Image                 string
	ImageID               string   // what the container's status shows of it
	Target                string   // id of a running container of the pod whose processes it shall see; "": none
	Command               []string // replaces the image's entrypoint when not empty
	Args                  []string
	Env                   []string // NAME=value; the image's env comes first
	WorkingDir            string
	Mounts                []specs.Mount
	Devices               []Device
	LogPath               string // CRI log format
	Stdin, StdinOnce, TTY bool

	Hash        string // of the pod's container spec, to see changes
	Kind        string // "init", "app", "ephemeral"
	Annotations map[string]string

	User               *int64
	Group              *int64
	SupplementalGroups []int64
	Privileged         bool
	ReadOnlyRoot       bool
	NoNewPrivileges    bool
	CapAdd, CapDrop    []string
	OnlyTheseGroups    bool // none that the image's /etc/group gives the user
	UnmaskedProc       bool
	SeccompProfile     string // "runtime/default", "unconfined", "localhost/<path>"
	AppArmorProfile    string // the same with the name of a loaded profile; "": the default one where the kernel has AppArmor

	CPUShares   uint64
	CPUQuota    int64 // µs per CPUPeriod; 0 = none
	CPUPeriod   uint64
	MemoryLimit int64             // bytes, swap included; 0 = none
	HugePages   map[string]int64  // bytes by page size ("2MB")
	Unified     map[string]string // files of cgroup v2
	PidsLimit   int64
	OOMScoreAdj int
}

// Device is a device of the node, or a directory of them, in a container.
type Device struct {
	Host, Path string // on the node, and in the container
	Access     string // letters of rwm
}

// ContainerState is where a container is in its life.
type ContainerState string

const (
	ContainerCreated ContainerState = "created"
	ContainerRunning ContainerState = "running"
	ContainerExited  ContainerState = "exited"
	ContainerUnknown ContainerState = "unknown"
)

// Container is an existing container.
type Container struct {
	ID        string
	Pod       PodRef
	Name      string
	Kind      string
	Attempt   int
	Image     string
	ImageID   string // repo digest or config digest
	Hash      string
	State     ContainerState
	Pid       int
	LogPath   string
	Created   time.Time
	Started   time.Time
	Finished  time.Time
	ExitCode  int
	Signal    int
	OOMKilled bool
	Error     string // why it could not be started
	User      *User  // nil if not known
}

// User is as whom a container's first process began.
type User struct {
	UID, GID int64
	Groups   []int64 // supplementary ones, with GID
}

// ExecSpec is a process to run inside a container.
type ExecSpec struct {
	Command  []string
	Internal bool // the agent's own (probe, hook): killed, not hung up, when its agent has died
	Streams
}

// Streams carries stdio; nil streams are closed.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan TerminalSize
}

// TerminalSize in characters.
type TerminalSize struct{ Width, Height uint16 }

// Image on this node.
type Image struct {
	ID      string // sha256:… of the config
	Names   []string
	Digests []string // repo@sha256:…
	Size    int64
	User    string // default user of the image config
	Pinned  bool   // it cannot be fetched again (imported), or somebody wants it to stay: never removed for its space
}

// Pulled is an image that has come, and the credential that brought it; nil: none was needed.
type Pulled struct {
	Image
	Used *registry.Credential
}
