package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/agent"
	"mgr/agent/containerd"
	"mgr/agent/daemon"
	"mgr/agent/masters"
	"mgr/netproxy"
	"mgr/pki"
	"mgr/pki/enroll"
)

// NodeConfig is the command line of an agent.
type NodeConfig struct {
	Name  string
	IP    string // "": that of the default route
	Dir   string
	Join  []string
	Token string
	NodeResources
	Labels      []string // key=value
	ManifestDir string
	ManifestURL string
	// ManifestURLHeader has lines NAME:VALUE.
	ManifestURLHeader []string
	Shutdown          Shutdown
	ServiceMode       string // iptables or userspace
	Balance           string // roundrobin or random
	Containerd        string // socket of the host's; "": embedded
	CgroupRoot        string // parent of all pods' cgroups
	Enforce           string // "none": the pods together may use what is reserved; else "pods"
	PodPidsLimit      int64
	// SeccompDefault: pods that name no seccomp profile get the runtime's.
	SeccompDefault bool
	UnsafeSysctls  []string          // that pods may set beside the safe ones
	DevicePlugins  string            // where device plug-ins register; "": in Dir
	Handlers       map[string]string // OCI runtimes that runtime classes can name, to executable
	Images         agent.ImageConfig
	RegistryHosts  string // directory of hosts.toml files
	PullPatience   time.Duration
	LogSize        string // a quantity of bytes
	LogFiles       int
	Log            *slog.Logger
}

// Node is everything that runs on a node.
type Node struct {
	cfg     NodeConfig
	log     *slog.Logger
	ip      netip.Addr
	labels  map[string]string
	room    room
	logSize int64
	cluster clusterSettings
	machine *enroll.Machine
	cert    *pki.Renewing
	masters *masters.Transport
	client  kubernetes.Interface
}

// clusterSettings are what every node must agree on; a master tells them when a node joins, and the node keeps them.
type clusterSettings struct {
	Services netip.Prefix `json:"services"`
	Pods     netip.Prefix `json:"pods"`
	Domain   string       `json:"domain"`
}

const settingsFile = "cluster.json"

// RunNode runs a node until ctx is done; its pods go on.
func RunNode(ctx context.Context, cfg NodeConfig) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // a node's memory is its pods': what lives here is small, and so shall be what is garbage
	}
	n := &Node{cfg: cfg, log: cfg.Log.With("node", cfg.Name)}
	if err := n.prepare(); err != nil {
		return err
	}
	if err := n.join(ctx); err != nil {
		return err
	}
	return n.run(ctx)
}

func (n *Node) prepare() error {
	c := &n.cfg
	if c.Name == "" {
		return errors.New("the node needs a name: --node-name")
	}
	var err error
	if c.IP == "" {
		if n.ip, err = defaultAddress(); err != nil {
			return fmt.Errorf("find this machine's address: %w: name it with --node-ip", err)
		}
	} else if n.ip, err = netip.ParseAddr(c.IP); err != nil {
		return fmt.Errorf("--node-ip %q: use an IP address", c.IP)
	}
	if n.labels, err = readLabels(c.Labels); err != nil {
		return err
	}
	if n.room, err = c.read(); err != nil {
		return err
	}
	if c.ServiceMode != "iptables" && c.ServiceMode != "userspace" {
		return fmt.Errorf("--service-mode %q: use iptables or userspace", c.ServiceMode)
	}
	if c.Enforce != "pods" && c.Enforce != "none" && c.Enforce != "" {
		return fmt.Errorf("--enforce-node-allocatable %q: use pods or none", c.Enforce)
	}
	if c.Balance != "roundrobin" && c.Balance != "random" {
		return fmt.Errorf("--balance %q: use roundrobin or random", c.Balance)
	}
	size, err := resource.ParseQuantity(c.LogSize)
	if err != nil || size.Value() <= 0 {
		return fmt.Errorf("--container-log-max-size %q: use a size, such as 10Mi", c.LogSize)
	}
	if n.logSize = size.Value(); c.LogFiles < 1 {
		return fmt.Errorf("--container-log-max-files %d: use 1 or more", c.LogFiles)
	}
	return os.MkdirAll(c.Dir, 0o700)
}

// join makes this machine a node, once; later starts remember.
func (n *Node) join(ctx context.Context) error {
	dir := filepath.Join(n.cfg.Dir, "pki")
	var err error
	n.machine, err = enroll.Load(dir)
	switch {
	case err == nil:
		err = n.loadSettings()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, enroll.ErrExpired) && n.cfg.Token != "":
		err = n.joinFirst(ctx, dir)
	}
	if err != nil {
		return err
	}
	n.cert = n.machine.Renewing(n.askCertificate, func() []string { return n.masters.Servers() }, n.log)
	n.masters = masters.New(addresses(n.cfg.Join), pki.ClientTLS(n.machine.Trust, n.cert, pki.ServerName))
	if n.client, err = kubernetes.NewForConfig(n.restConfig()); err != nil {
		return err
	}
	if n.cfg.Token != "" && errors.Is(n.removed(ctx), errRemoved) {
		// A token says that somebody wants it back.
		if err := n.joinFirst(ctx, dir); err != nil {
			return err
		}
		n.cert = n.machine.Renewing(n.askCertificate, n.masters.Servers, n.log)
		n.masters = masters.New(n.masters.Servers(), pki.ClientTLS(n.machine.Trust, n.cert, pki.ServerName))
		n.client, err = kubernetes.NewForConfig(n.restConfig())
	}
	return err
}

// askCertificate renews the node's certificate through the API.
func (n *Node) askCertificate(ctx context.Context, csrPEM []byte) ([]byte, error) {
	return agent.RequestCertificate(ctx, n.client, n.cfg.Name, csrPEM)
}

// errRemoved: the cluster has deleted this node.
var errRemoved = errors.New("the cluster does not know this node any more")

// removed asks a master whether this machine is still a node; errRemoved when it is not, nil when it is or nobody answers.
func (n *Node) removed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := n.client.CoreV1().Nodes().Get(ctx, n.cfg.Name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsUnauthorized(err) {
		return fmt.Errorf("%w: %w", errRemoved, err)
	}
	return nil
}

// removedEvery is how often a running node looks whether it was deleted.
const removedEvery = 10 * time.Second

// stayMember ends with an error when the node is deleted: its pods are not wanted any more, and nothing it says is heard.
func (n *Node) stayMember(ctx context.Context) error {
	tick := time.NewTicker(removedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := n.removed(ctx); err != nil {
				return err
			}
		}
	}
}

func (n *Node) joinFirst(ctx context.Context, dir string) error {
	if len(n.cfg.Join) == 0 || n.cfg.Token == "" {
		return fmt.Errorf("this machine is no node yet: give --join https://MASTER:6443 and --token (mgr token create --role agent)")
	}
	machine, reply, err := enroll.Join(ctx, dir, n.cfg.Join, n.cfg.Token, n.cfg.Name)
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	n.machine = machine
	if err := json.Unmarshal(reply.Config, &n.cluster); err != nil {
		return fmt.Errorf("join the cluster: its settings: %w", err)
	}
	return pki.WriteFile(filepath.Join(n.cfg.Dir, settingsFile), reply.Config)
}

func (n *Node) loadSettings() error {
	path := filepath.Join(n.cfg.Dir, settingsFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read what the cluster told this node: %w", err)
	}
	if err := json.Unmarshal(b, &n.cluster); err != nil {
		return fmt.Errorf("%s is damaged: %w: remove %s and join again", path, err, n.cfg.Dir)
	}
	return nil
}

// restConfig is an API client that goes on at another master when one is gone.
func (n *Node) restConfig() *rest.Config {
	return &rest.Config{
		Host: "https://" + pki.ServerName, QPS: -1, UserAgent: "mgr-agent",
		ContentConfig: rest.ContentConfig{AcceptContentTypes: "application/json", ContentType: "application/json"},
		Transport:     n.masters,
	}
}

// run starts containerd, the network and the agent, and waits for all of it.
func (n *Node) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { n.cert.Run(ctx); return nil })
	// It outlives this process; the next one adopts it.
	d, err := daemon.Ensure(ctx, daemon.Config{Dir: n.cfg.Dir, Address: n.cfg.Containerd, Log: n.log})
	if err != nil {
		return err
	}
	defer d.Release()
	runtime, err := containerd.Open(ctx, containerd.Config{Address: d.Address(), Shim: d.Shim(), Runc: d.Runc(), Dir: n.cfg.Dir, Log: n.log, Handlers: n.cfg.Handlers,
		RegistryHosts: n.cfg.RegistryHosts, PullPatience: n.cfg.PullPatience, LogSize: n.logSize, LogFiles: n.cfg.LogFiles})
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	defer runtime.Close()
	shared := informers.NewSharedInformerFactory(n.client, 0)
	proxy, err := netproxy.New(netproxy.Config{
		NodeName: n.cfg.Name, NodeIP: n.ip, Dir: filepath.Join(n.cfg.Dir, "network"), Informers: shared,
		PodCIDR: n.cluster.Pods, ServiceCIDR: n.cluster.Services, ClusterDNS: dnsIP(n.cluster.Services),
		ClusterDomain: n.cluster.Domain, Mode: n.cfg.ServiceMode, Balance: n.cfg.Balance, Log: n.log,
	})
	if err != nil {
		return err
	}
	header, err := headers(n.cfg.ManifestURLHeader)
	if err != nil {
		return err
	}
	groups, err := n.cfg.Shutdown.groups()
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		NodeName: n.cfg.Name, Dir: n.cfg.Dir, Client: n.client, Informers: shared,
		Runtime: runtime, Network: proxy.Network(), NodeIPs: []netip.Addr{n.ip}, Labels: n.labels,
		ClusterDNS: dnsIP(n.cluster.Services), ClusterDomain: n.cluster.Domain, CgroupRoot: n.cfg.CgroupRoot,
		MaxPods: n.cfg.MaxPods, KubeReserved: n.room.kube, SystemReserved: n.room.system, Taints: n.room.taints, Eviction: n.cfg.Eviction, ImageDir: n.imageDir(),
		Images: n.cfg.Images, SeccompUnconfined: !n.cfg.SeccompDefault, AllowedUnsafeSysctls: n.cfg.UnsafeSysctls,
		ManifestDir: n.cfg.ManifestDir, ManifestURL: n.cfg.ManifestURL, ManifestURLHeader: header, ShutdownGrace: groups,
		Unenforced: n.cfg.Enforce == "none", PodPidsLimit: n.cfg.PodPidsLimit,
		DevicePluginDir: n.cfg.DevicePlugins,
		Masters:         n.masters.Servers(), OnMasters: n.masters.SetServers, DialTunnel: n.dialTunnel, Log: n.log,
	})
	if err != nil {
		return err
	}
	shared.StartWithContext(ctx)
	defer shared.Shutdown()
	g.Go(func() error { settle(ctx, n.log); return nil })
	g.Go(func() error { return proxy.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return n.stayMember(ctx) })
	return g.Wait()
}

// headers reads lines NAME:VALUE.
func headers(lines []string) (http.Header, error) {
	out := http.Header{}
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("--manifest-url-header %q is not of the form NAME:VALUE", l)
		}
		out.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return out, nil
}

func (n *Node) dialTunnel(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return pki.DialAgent(ctx, n.machine.Trust, n.cert, addr)
}

// addresses turns https://host:port into host:port.
func addresses(urls []string) []string {
	var out []string
	for _, u := range urls {
		out = append(out, strings.TrimSuffix(strings.TrimPrefix(u, "https://"), "/"))
	}
	return out
}
