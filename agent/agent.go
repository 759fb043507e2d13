package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"mgr/agent/cgroup"
	"mgr/agent/devices"
	"mgr/agent/env"
	"mgr/agent/evict"
	"mgr/agent/machine"
	"mgr/agent/objects"
	"mgr/agent/volume"
)

// Config of an agent. NodeName, Dir, Client, Runtime and Network are required.
type Config struct {
	NodeName string
	Dir      string // state: pods' files and logs
	Client   kubernetes.Interface
	// Informers may be shared with the proxy; the agent uses services only. Nil: a factory of the agent's own.
	Informers informers.SharedInformerFactory
	Runtime   Runtime
	Network   Network

	NodeIPs       []netip.Addr
	Labels        map[string]string
	ClusterDNS    netip.Addr
	ClusterDomain string
	ManifestDir   string // static pods; "": none
	ManifestURL   string // static pods too, a Pod or a List of them, asked for every 20 s; "": none
	// ManifestURLHeader is sent with that request.
	ManifestURLHeader http.Header
	// ShutdownGrace is what pods get, by priority, when the machine shuts down; none: nobody holds up a shutdown for them.
	ShutdownGrace []ShutdownGrace
	CgroupRoot    string // parent of all pods' cgroups; "": kubepods
	LogDir        string // of containers; "": Dir/logs
	MaxPods       int    // 0: 110
	Images        ImageConfig
	// Capacity overrides what the machine has, so that simulated hosts can share one.
	Capacity v1.ResourceList
	// SeccompDir is where Localhost profiles lie; "": Dir/seccomp. SeccompUnconfined: no profile where a pod names none.
	SeccompDir        string
	SeccompUnconfined bool
	// AllowedUnsafeSysctls are names, or prefixes ending in *, that pods may set beside the safe ones.
	AllowedUnsafeSysctls []string
	// DevicePluginDir is where device plug-ins register; "": Dir/device-plugins.
	DevicePluginDir string
	// KubeReserved and SystemReserved are what pods cannot have of the capacity.
	KubeReserved, SystemReserved v1.ResourceList
	// Unenforced: the pods' cgroup is limited to the capacity, not to what is left of it.
	Unenforced   bool
	PodPidsLimit int64 // processes and threads of one pod; 0: as many as the node allows
	Eviction     evict.Config
	Taints       []v1.Taint      // of a node that registers itself
	ImageDir     string          // on the file system of images and layers; "": Dir
	Machine      machine.Machine // what the node's resources are read from
	Cgroups      *cgroup.FS      // nil: this machine's

	// Masters are the addresses ("host:port") known at the start; more are learned from the endpoints of the kubernetes
	// service. OnMasters is told whenever that list changes, to pass it on to the client's transport: first what was
	// learned, then what else was known at the start, in case that all learned ones are lost.
	Masters   []string
	OnMasters func(addrs []string)
	// DialTunnel opens the connection to a master on which the agent serves; nil: no tunnels.
	DialTunnel func(ctx context.Context, addr string) (net.Conn, error)

	Log *slog.Logger
}

// Agent runs the pods that are bound to its node.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	runtime  Runtime
	network  Network
	client   kubernetes.Interface
	objects  *objects.Cache
	volumes  *volume.Manager
	recorder record.EventRecorder
	events   record.EventBroadcaster
	lister   *lister
	timing   *timing
	pulls    *pulls
	images   *imageKeeper

	pods         cache.SharedIndexInformer
	node         cache.SharedIndexInformer
	services     corelisters.ServiceLister
	servicesDone cache.InformerSynced

	renewed     atomic.Int64 // when the node's lease was last renewed, in Unix nanoseconds
	resources   atomic.Pointer[nodeResources]
	meter       *meter
	evictor     *evictor
	probeCounts probeCounts
	cgroups     *cgroup.FS
	sysctls     *sysctlRules
	appArmor    bool // the kernel has it
	devices     *devices.Manager
	stirred     chan struct{} // something that the node's object tells of has changed
	ids         *idRanges

	manifests manifests
	shutdown  shutdown

	identity string // see awaitName
	silent   string // version of the lease that another agent left

	mu      sync.Mutex
	workers map[string]*worker // by pod UID
	static  map[string]*v1.Pod // wanted by manifests, by UID
	settled bool               // the API's pods are known: what is not wanted may be removed
	wg      sync.WaitGroup     // workers
	saved   map[string]int64   // generation of each pod written down
	saving  sync.Mutex         // held while one is
	mirrors chan struct{}      // static pods and mirrors are to be looked at
	begun   time.Time
	crowd   chan struct{} // pods came, went or changed their size
}

// New prepares an agent; nothing happens before Run.
func New(cfg Config) (*Agent, error) {
	if cfg.NodeName == "" || cfg.Dir == "" || cfg.Client == nil || cfg.Runtime == nil || cfg.Network == nil {
		return nil, errors.New("agent: NodeName, Dir, Client, Runtime and Network are required")
	}
	defaults(&cfg)
	if err := cfg.Images.complete(); err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(cfg.Dir, "pods"), cfg.LogDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("making the agent's directories: %w", err)
		}
	}
	self, err := identity(cfg.Dir)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		identity: self,
		cfg:      cfg, log: cfg.Log, runtime: cfg.Runtime, network: cfg.Network, client: cfg.Client, timing: newTiming(),
		workers: map[string]*worker{}, static: map[string]*v1.Pod{}, saved: map[string]int64{}, mirrors: make(chan struct{}, 1), begun: time.Now(), crowd: make(chan struct{}, 1),
	}
	if a.sysctls, err = newSysctlRules(cfg.AllowedUnsafeSysctls); err != nil {
		return nil, err
	}
	a.appArmor = appArmorEnabled()
	a.stirred = make(chan struct{}, 1)
	if a.devices, err = a.newDevices(); err != nil {
		return nil, err
	}
	if err := a.prepareNode(); err != nil {
		return nil, err
	}
	if a.ids, err = newIDRanges(filepath.Join(cfg.Dir, "pods"), a.log); err != nil {
		return nil, err
	}
	a.shutdown.begun = make(chan struct{}, 1)
	a.objects = objects.New(cfg.Client, a.refreshVolumes)
	a.volumes = &volume.Manager{
		Dir: filepath.Join(cfg.Dir, "pods"), Client: cfg.Client, Objects: a.objects,
		Facts:      func(p *v1.Pod) env.Facts { return a.facts(p, nil) },
		NodeLabels: a.nodeLabels, MountImage: a.mountImage, UnmountImage: a.runtime.UnmountImage,
		NodeUID: a.nodeUID,
		Warn: func(p *v1.Pod, reason, message string) {
			if w := a.worker(string(p.UID)); w != nil {
				w.refEvent(p, "", v1.EventTypeWarning, reason, "%s", message)
			}
		},
	}
	a.events = record.NewBroadcaster()
	a.recorder = a.events.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: cfg.NodeName})
	records, err := openRecords(context.Background(), &cfg)
	if err != nil {
		return nil, err
	}
	a.pulls = newPulls(cfg.Runtime, records, cfg.Images.Parallel)
	a.images = a.newImageKeeper()
	a.lister = newLister(cfg.Runtime, a.deliver, cfg.Log)
	a.makeInformers()
	return a, nil
}

func defaults(cfg *Config) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = "kubepods"
	}
	if cfg.LogDir == "" {
		cfg.LogDir = filepath.Join(cfg.Dir, "logs")
	}
	if cfg.DevicePluginDir == "" {
		cfg.DevicePluginDir = filepath.Join(cfg.Dir, "device-plugins")
	}
	if cfg.SeccompDir == "" {
		cfg.SeccompDir = filepath.Join(cfg.Dir, "seccomp")
	}
	if cfg.MaxPods == 0 {
		cfg.MaxPods = 110
	}
}

func (a *Agent) makeInformers() {
	pods := informers.NewSharedInformerFactoryWithOptions(a.client, 0,
		informers.WithTransform(stripManaged), informers.WithTweakListOptions(fieldTweak("spec.nodeName", a.cfg.NodeName)))
	a.pods = pods.Core().V1().Pods().Informer()
	nodes := informers.NewSharedInformerFactoryWithOptions(a.client, 0,
		informers.WithTransform(stripManaged), informers.WithTweakListOptions(fieldTweak("metadata.name", a.cfg.NodeName)))
	a.node = nodes.Core().V1().Nodes().Informer()
	if a.cfg.Informers == nil {
		a.cfg.Informers = informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(stripManaged))
	}
	services := a.cfg.Informers.Core().V1().Services()
	a.services, a.servicesDone = services.Lister(), services.Informer().HasSynced
}

// Run starts the node and blocks until ctx is done, or until another agent has taken the node over; the pods go on without it.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer a.pulls.wait()
	defer a.wg.Wait()
	defer a.objects.Close()
	defer a.events.Shutdown()
	defer cancel()
	if err := a.lister.first(ctx); err != nil {
		return fmt.Errorf("listing the containers of this node: %w", err)
	}
	a.events.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	if a.awaitName(ctx); ctx.Err() != nil {
		return nil
	}
	a.readManifests()
	a.recallURL()
	a.applyManifests(ctx)
	reg, err := a.pods.AddEventHandler(a.podHandler(ctx))
	if err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	for _, run := range []func(context.Context){
		a.lister.run, a.runDevices, a.watchExits, a.runCgroups, a.runNode, a.runEvictor, a.runStatic, a.runTunnels, a.runShutdown, a.watchShutdown, a.images.run,
		a.pods.RunWithContext, a.node.RunWithContext,
		func(ctx context.Context) { a.settle(ctx, reg) },
	} {
		wg.Go(func() { run(ctx) })
	}
	a.cfg.Informers.StartWithContext(ctx)
	return a.runLease(ctx)
}

// watchExits turns the runtime's notices into listings. A slow listing now and then finds what a notice missed.
func (a *Agent) watchExits(ctx context.Context) {
	exits := a.runtime.Exits(ctx)
	slow := time.NewTicker(30 * time.Second)
	defer slow.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-exits:
			if !ok {
				exits = nil
				continue
			}
		case <-slow.C:
		}
		a.lister.kick()
	}
}

func (a *Agent) facts(_ *v1.Pod, ips []netip.Addr) env.Facts {
	return env.Facts{NodeName: a.cfg.NodeName, HostIPs: a.cfg.NodeIPs, PodIPs: ips, Allocatable: a.room().Allocatable}
}

func fieldTweak(field, value string) func(*metav1.ListOptions) {
	selector := fields.OneTermEqualSelector(field, value).String()
	return func(o *metav1.ListOptions) { o.FieldSelector = selector }
}

// stripManaged drops what the agent never reads and would otherwise keep in memory.
func stripManaged(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}
