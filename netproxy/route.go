//go:build linux

package netproxy

import (
	"context"
	"errors"
	"time"

	"k8s.io/client-go/tools/cache"

	"mgr/netproxy/iptables"
	"mgr/netproxy/podnet"
	"mgr/netproxy/rules"
	"mgr/netproxy/services"
	"mgr/netproxy/userspace"
)

const (
	// minInterval lies between two commits: an idle node acts at once, a busy one folds changes together.
	minInterval = 10 * time.Millisecond
	// checkInterval is how often the kernel is asked whether somebody removed our rules.
	checkInterval = 15 * time.Second
	firstRetry    = 100 * time.Millisecond
	lastRetry     = 5 * time.Second
)

// router leads service addresses to endpoints. Not for concurrent use.
type router interface {
	Apply(ctx context.Context, d rules.Desired) error
	// Intact reports whether what Apply did is still in place; after false, Apply does everything again.
	Intact(ctx context.Context) bool
	// Close ends what needs the process; what does not, stays.
	Close()
}

func newRouter(cfg Config) (router, error) {
	ctx := context.Background()
	applier, err := iptables.New(ctx, cfg.Log)
	if cfg.Mode == ModeIPTables {
		if err != nil {
			return nil, err
		}
		if err := podnet.Sysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
			return nil, err
		}
		cfg.Log.Info("leading services by iptables", "backend", applier.Variant())
		compiler := rules.NewCompiler(rules.Config{PodCIDR: cfg.PodCIDR, ServiceCIDR: cfg.ServiceCIDR, LocalIPs: cfg.localIPs()})
		return &kernelRouter{compiler: compiler, applier: applier}, nil
	}
	r := &userRouter{proxy: userspace.New(userspace.Config{
		NodeIP: cfg.NodeIP, LocalIPs: cfg.localIPs(), Balance: cfg.Balance, Log: cfg.Log,
	})}
	if err != nil {
		cfg.Log.Warn("pods cannot reach addresses outside of the cluster without masquerading", "err", err)
	} else {
		r.masquerade = &kernelRouter{compiler: rules.NewCompiler(rules.Config{PodCIDR: cfg.PodCIDR}), applier: applier}
	}
	cfg.Log.Info("leading services by user-space proxy", "balance", cfg.Balance)
	return r, nil
}

// kernelRouter has the kernel do it.
type kernelRouter struct {
	compiler *rules.Compiler
	applier  *iptables.Applier
	ports    []*services.Port // as applied
}

func (r *kernelRouter) Apply(ctx context.Context, d rules.Desired) error {
	if err := r.applier.Apply(ctx, r.compiler.Compile(d)); err != nil {
		return err
	}
	if stale := iptables.StaleAfter(r.ports, d.Ports); stale != nil {
		if err := stale.Forget(); err != nil {
			return err
		}
	}
	r.ports = d.Ports
	return nil
}

func (r *kernelRouter) Intact(ctx context.Context) bool { return r.applier.Intact(ctx) }

func (r *kernelRouter) Close() {}

// userRouter has a proxy in this process do it. The kernel only masquerades what pods send out of the cluster, if it can.
type userRouter struct {
	proxy      *userspace.Proxy
	masquerade *kernelRouter // nil without iptables
}

func (r *userRouter) Apply(ctx context.Context, d rules.Desired) error {
	err := r.proxy.Apply(d)
	if r.masquerade != nil {
		err = errors.Join(err, r.masquerade.Apply(ctx, rules.Desired{}))
	}
	return err
}

func (r *userRouter) Intact(ctx context.Context) bool {
	return r.proxy.Intact() && (r.masquerade == nil || r.masquerade.Intact(ctx))
}

func (r *userRouter) Close() { r.proxy.Close() }

// hostPortsChange asks for a commit and hears of it.
type hostPortsChange struct{ done chan error }

// changeHostPorts returns when the host ports that pods hold by now have been committed.
func (p *Proxy) changeHostPorts(ctx context.Context, _ []podnet.Lease) error {
	c := hostPortsChange{done: make(chan error, 1)}
	select {
	case p.hostPorts <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// route commits changes of services, endpoints and host ports until ctx is done. It begins when all services are known: to
// commit a part of them would take the rest away.
func (p *Proxy) route(ctx context.Context) error {
	defer p.router.Close()
	if !cache.WaitForCacheSync(ctx.Done(), p.tracker.HasSynced) {
		return nil
	}
	check := time.NewTicker(checkInterval)
	defer check.Stop()
	again := time.NewTimer(0) // also the first commit
	defer again.Stop()
	backoff := firstRetry
	var last time.Time
	for {
		var asked []hostPortsChange
		select {
		case <-ctx.Done():
			return nil
		case <-p.tracker.Changed():
		case c := <-p.hostPorts:
			asked = append(asked, c)
		case <-again.C:
		case <-check.C:
			if p.router.Intact(ctx) {
				continue
			}
			p.cfg.Log.Warn("somebody removed service rules; writing all of them again")
		}
		pause(ctx, minInterval-time.Since(last))
		err := p.commit(ctx)
		last = time.Now()
		for _, c := range asked {
			c.done <- err
		}
		if err == nil {
			backoff = firstRetry
			continue
		}
		if ctx.Err() == nil {
			p.cfg.Log.Error("services are not up to date; trying again", "err", err, "in", backoff)
		}
		again.Reset(backoff)
		backoff = min(2*backoff, lastRetry)
	}
}

func (p *Proxy) commit(ctx context.Context) error {
	return p.router.Apply(ctx, rules.Desired{Ports: p.tracker.Ports(), HostPorts: hostPortsOf(p.network.Leases())})
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
