package boot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/component-base/version"

	"mgr/api"
	"mgr/fsm"
	"mgr/pki"
	"mgr/raftnode"
	"mgr/tunnel"
)

// Names that every cluster has.
const (
	ClusterDomain = "cluster.local"
	issuer        = "https://kubernetes.default.svc." + ClusterDomain
)

// leavePatience is how long a master that stops tries to hand leadership over.
const leavePatience = 2 * time.Second

// MasterConfig is the command line of a master.
type MasterConfig struct {
	ID          string
	Advertise   string // IP address; "": that of the default route
	Port        int
	Dir         string
	ClusterInit bool
	Join        []string // https://host:port of masters
	Token       string
	ServiceCIDR string
	PodCIDR     string

	DeadMasterAfter time.Duration // silence after which a master is cleaned up; 0: never

	NodeGrace     time.Duration
	PodToleration time.Duration
	MaxLevel      fsm.Level     // feature level above which the cluster is not raised by this master; 0: the newest that it knows
	RaiseAfter    time.Duration // how long all masters must have known a higher level before it is raised; 0: 30 s
	Snapshots     SnapshotConfig
	Log           *slog.Logger
}

// Master is a peer of the quorum with everything that runs beside it.
type Master struct {
	*Plane    // nil before assemble
	cfg       MasterConfig
	log       *slog.Logger
	addr      netip.AddrPort
	services  netip.Prefix
	pods      netip.Prefix
	authority *pki.Authority
	cert      *pki.Renewing
	snapshots *snapshots // nil: none are scheduled
}

// RunMaster runs a master until ctx is done; then it hands leadership over and stops.
func RunMaster(ctx context.Context, cfg MasterConfig) error {
	m := &Master{cfg: cfg, log: cfg.Log.With("master", cfg.ID)}
	if err := m.prepare(); err != nil {
		return err
	}
	if err := m.trust(ctx); err != nil {
		return err
	}
	if err := m.reinstall(ctx); err != nil {
		return err
	}
	// The port first: what joins the quorum must be reachable by it.
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("open the port: %w", err)
	}
	defer listener.Close()
	shedder, err := shed(listener)
	if err != nil {
		return fmt.Errorf("find out how many files this process may open: %w", err)
	}
	err = m.assemble()
	if errors.Is(err, raftnode.ErrDamaged) { // which has been noted
		m.log.Error("the quorum's log cannot be opened", "err", err)
		if err = m.reinstall(ctx); err == nil {
			err = m.assemble()
		}
	}
	if err != nil {
		return err
	}
	defer m.close()
	return m.run(ctx, shedder)
}

// prepare checks the configuration and fills in what can be found out.
func (m *Master) prepare() error {
	c := &m.cfg
	if c.ID == "" {
		return errors.New("the master needs a name: --id")
	}
	if c.Advertise == "" {
		ip, err := defaultAddress()
		if err != nil {
			return fmt.Errorf("find this machine's address: %w: name it with --advertise", err)
		}
		c.Advertise = ip.String()
	}
	ip, err := netip.ParseAddr(c.Advertise)
	if err != nil {
		return fmt.Errorf("--advertise %q: use an IP address", c.Advertise)
	}
	m.addr = netip.AddrPortFrom(ip, uint16(c.Port))
	if m.services, err = netip.ParsePrefix(c.ServiceCIDR); err != nil {
		return fmt.Errorf("--service-cidr: %w", err)
	}
	if m.pods, err = netip.ParsePrefix(c.PodCIDR); err != nil {
		return fmt.Errorf("--pod-cidr: %w", err)
	}
	if c.MaxLevel > fsm.Newest {
		return fmt.Errorf("--max-feature-level %d: this version knows feature levels up to %d", c.MaxLevel, fsm.Newest)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if m.snapshots, err = newSnapshots(c.Snapshots, c.Log); err != nil {
		return err
	}
	return errors.Join(os.Chmod(c.Dir, 0o700), m.checkSettings())
}

func (m *Master) pkiDir() string { return filepath.Join(m.cfg.Dir, "pki") }

// trust loads the cluster's keys, makes those of a new cluster, or gets them from a master of the cluster that it joins.
func (m *Master) trust(ctx context.Context) error {
	var err error
	switch {
	case pki.Exists(m.pkiDir()):
		m.authority, err = pki.Load(m.pkiDir())
	case m.cfg.ClusterInit:
		m.authority, err = pki.Bootstrap(m.pkiDir())
	case len(m.cfg.Join) > 0:
		m.authority, err = m.joinTrust(ctx)
	default:
		return fmt.Errorf("this master has no data in %s: start a new cluster with --cluster-init, or join one with --join and --token", m.cfg.Dir)
	}
	if err != nil {
		return err
	}
	id := pki.Master(m.cfg.ID, ClusterDomain, net.IP(apiServiceIP(m.services).AsSlice()), m.cfg.Advertise)
	m.cert, err = m.authority.MasterCertificate(id, m.log)
	return err
}

// apiServiceIP is the first address of the service network: the service "kubernetes".
func apiServiceIP(services netip.Prefix) netip.Addr { return services.Masked().Addr().Next() }

// dnsIP is the tenth address of the service network.
func dnsIP(services netip.Prefix) netip.Addr {
	ip := services.Masked().Addr()
	for range 10 {
		ip = ip.Next()
	}
	return ip
}

// assemble opens the quorum's log and puts the control plane on it.
func (m *Master) assemble() error {
	node, err := raftnode.Open(raftnode.Config{
		ID: m.cfg.ID, Addr: m.addr.String(), Dir: m.raftDir(), FSM: fsm.New(fsm.Options{Knows: m.cfg.MaxLevel}), Log: m.log, Version: build(),
		RaiseAfter: m.cfg.RaiseAfter, DeadAfter: cmp.Or(m.cfg.DeadMasterAfter, -1),
		Dial: func(ctx context.Context, addr, id string) (net.Conn, error) {
			return pki.DialRaft(ctx, m.authority.Trust, m.cert, addr, id)
		},
	})
	if err != nil {
		return fmt.Errorf("open the quorum's log: %w", err)
	}
	m.Plane, err = Assemble(Parts{
		ID: m.cfg.ID, Node: node, Authority: m.authority, Tunnels: tunnel.NewRegistry(m.log), Peers: m.peerTransport(),
		Services: m.services, Pods: m.pods, NodeGrace: m.cfg.NodeGrace, PodToleration: m.cfg.PodToleration,
		Gauges: m.snapshots.gauges, Log: m.log,
	})
	if err != nil {
		return errors.Join(err, node.Close())
	}
	return nil
}

// build names this program: the version of Kubernetes that it is like, and the commit that it was made of.
func build() string {
	v := api.Version().GitVersion
	if commit := version.Get().GitCommit; commit != "" && !strings.HasPrefix(commit, "$") {
		v += "." + commit
	}
	return v
}

// peerTransport carries requests to other masters, which prove to be one.
func (m *Master) peerTransport() http.RoundTripper {
	return &http.Transport{
		TLSClientConfig:     pki.ClientTLS(m.authority.Trust, m.cert, pki.ServerName),
		DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
	}
}

// run serves until ctx is done or a part fails for good.
func (m *Master) run(ctx context.Context, listener net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { m.cert.Run(ctx); return nil })
	port := &pki.Port{
		Trust: m.authority.Trust, FrontProxies: m.authority.FrontProxy(), Cert: m.cert, Log: m.log, HTTP: m.api.Handler(),
		Raft:  m.serveRaft,
		Agent: m.serveAgent,
	}
	// The port outlives the quorum's hand-over, which needs it.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return port.Serve(serving, listener) })
	g.Go(func() error { return m.Plane.Run(ctx) })
	g.Go(func() error { return m.watchQuorum(ctx) })
	g.Go(func() error { m.api.Warm(ctx); settle(ctx, m.log); return nil })
	g.Go(func() error {
		defer stopServing()
		<-ctx.Done()
		m.Leave(leavePatience)
		return nil
	})
	if err := m.enter(ctx); err != nil && ctx.Err() == nil {
		stopServing()
		return err
	}
	g.Go(func() error { return m.stayMember(ctx) })
	if m.snapshots != nil {
		m.snapshots.save = m.Save
		g.Go(func() error { m.snapshots.run(ctx, m.admin); return nil })
	}
	m.log.Info("master is up", "addr", m.addr)
	return g.Wait()
}
