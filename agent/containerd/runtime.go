// Package containerd implements agent.Runtime on containerd. It talks to the daemon's services directly, one call where the
// high-level client makes three, because pod start is where a user waits.
//
// A pod's sandbox is not a process but a directory with pinned namespaces (sandbox.go). Its containers carry labels that say
// whose they are, and a small status file each (record.go), so Open finds everything again after a restart of the agent, of
// containerd, or of both. The runtime's memory is the only writer of that state; containerd's events and a periodic
// comparison with its task list keep it true.
//
// Goroutines: watch (events and comparison), one pump for each output stream of a container, and one burial for each exited
// container. Close ends them all; containers and their shims go on.
package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"mgr/agent"
	"mgr/agent/cgroup"
)

// versionTimeout is how long containerd may take to answer the simplest question before it counts as away.
const versionTimeout = 5 * time.Second

// Config of a runtime. The zero value of an optional field means its default.
type Config struct {
	Dir     string // the agent's data directory, absolute; see Layout
	Address string // containerd's socket
	Shim    string // the shim's executable; "" = the one that containerd finds for runc
	Runc    string // mgr-runc, which containerd and the shim then call in the place of the shim and of runc; "" = these themselves
	Log     *slog.Logger

	RegistryHosts string        // directory of hosts.toml files as containerd defines it; default /etc/containerd/certs.d
	PullPatience  time.Duration // a pull ends when the registry has sent nothing for so long; default 5 m
	LogSize       int64         // bytes at which a container's log is rotated; default 10 MiB
	LogFiles      int           // files kept of one log, the current one included; default 5

	// Handlers are OCI runtimes beside the default one, name to executable; each must take runc's command line.
	Handlers map[string]string
}

// Runtime is an agent.Runtime.
type Runtime struct {
	cfg      Config
	layout   Layout
	client   *containerd.Client
	tasks    tasks.TasksClient
	store    containers.Store
	snaps    snapshots.Snapshotter
	images   imageCache
	pulling  pullLeases
	kits     kits
	shims    shims
	gate     gate
	cgroups  *cgroup.FS
	oomMin   int // the lowest oom_score_adj that containers may be given
	appArmor appArmorKernel
	handlers []handler

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu         sync.Mutex
	containers map[string]*container
	inUse      map[string]struct{} // see use
	doubt      atomic.Bool         // containerd may have stored a container that nobody knows
	sandboxes  map[string]*sandbox
	listeners  map[chan string]struct{}
	noted      map[string]bool // cgroups already noted for Cleanup
}

var _ agent.Runtime = (*Runtime)(nil)

// Open connects to containerd and finds again the sandboxes and containers of an earlier agent, whose output it goes on
// recording. It needs root.
func Open(ctx context.Context, cfg Config) (*Runtime, error) {
	cfg.RegistryHosts = cmp.Or(cfg.RegistryHosts, "/etc/containerd/certs.d")
	cfg.PullPatience = cmp.Or(cfg.PullPatience, 5*time.Minute)
	cfg.LogSize = cmp.Or(cfg.LogSize, 10<<20)
	cfg.LogFiles = cmp.Or(cfg.LogFiles, 5)
	cgroups, err := cgroup.Host()
	if err != nil {
		return nil, err
	}
	client, err := containerd.New(cfg.Address, containerd.WithDefaultNamespace(Namespace),
		containerd.WithExtraDialOpts([]grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
			// A containerd that is being started again makes calls wait, not fail.
		}), grpc.WithDefaultCallOptions(grpc.WaitForReady(true))}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	r := &Runtime{
		cfg: cfg, layout: NewLayout(cfg.Dir), client: client, gate: newGate(),
		tasks: client.TaskService(), store: client.ContainerService(),
		pulling:    pullLeases{active: map[string]int{}},
		images:     imageCache{byTarget: map[string]*imageInfo{}},
		containers: map[string]*container{}, inUse: map[string]struct{}{}, sandboxes: map[string]*sandbox{}, listeners: map[chan string]struct{}{},
		noted: map[string]bool{}, cgroups: cgroups, appArmor: systemAppArmor(),
	}
	r.ctx, r.stop = context.WithCancel(scope(context.Background()))
	r.shims.r, r.shims.alive = r, map[*shim]struct{}{}
	if err := r.load(scope(ctx)); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.wg.Go(r.watch)
	return r, nil
}

func (r *Runtime) load(ctx context.Context) error {
	for _, d := range []string{r.layout.sandboxes(), r.layout.containers(), r.layout.Run} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("make the runtime's directories: %w", err)
		}
	}
	var err error
	if r.handlers, err = findHandlers(ctx, r.cfg.Handlers); err != nil {
		return err
	}
	name, err := r.pickSnapshotter(ctx)
	if err != nil {
		return err
	}
	r.snaps = r.client.SnapshotService(name)
	r.images.snapshotter = name
	r.allowUserNS(ctx, name)
	if err := r.sweepMapped(); err != nil {
		return err
	}
	if r.oomMin, err = lowestOOMScore(); err != nil {
		return err
	}
	if r.oomMin > oomScoreMin {
		r.cfg.Log.Warn("this process lacks CAP_SYS_RESOURCE: containers' oom_score_adj is raised to the lowest it may set",
			"lowest", r.oomMin)
	}
	if err := r.loadSandboxes(); err != nil {
		return err
	}
	if err := r.loadContainers(ctx); err != nil {
		return err
	}
	if err := r.endCommands(); err != nil {
		return err
	}
	return r.shims.open(ctx)
}

// pickSnapshotter returns overlayfs, or native where the kernel or the file system refuses overlays.
func (r *Runtime) pickSnapshotter(ctx context.Context) (string, error) {
	for _, name := range []string{"overlayfs", "native"} {
		if _, err := r.client.GetSnapshotterCapabilities(ctx, name); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("containerd at %s has neither the overlayfs nor the native snapshotter, or does not answer", r.cfg.Address)
}

// Close stops watching and recording; what runs goes on and waits, if its pipes are full, for the next Open.
func (r *Runtime) Close() error {
	r.stop()
	r.shims.close()
	r.mu.Lock()
	for _, c := range r.containers {
		if c.io != nil {
			c.io.detach()
		}
	}
	r.mu.Unlock()
	r.wg.Wait()
	r.kits.close()
	return r.client.Close()
}

// Version implements agent.Runtime.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	v, err := r.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	return "containerd://" + trimV(v.Version), nil
}

// silent takes what containerd's libraries log beside the errors they return; it would go to standard error in a format of
// its own.
var silent = func() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}()

// scope gives ctx our containerd namespace, which every service wants.
func scope(ctx context.Context) context.Context {
	return namespaces.WithNamespace(log.WithLogger(ctx, silent), Namespace)
}

func trimV(version string) string { return strings.TrimPrefix(version, "v") }
