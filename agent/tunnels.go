package agent

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"mgr/tunnel"
)

// leaveMaster is how long a master may be missing from the list of masters before its connection is given up: the list lags behind
// when masters join or leave, and is made anew after a restore.
const leaveMaster = 10 * time.Second

// runTunnels serves the masters over a connection to each of them, and follows the list of masters.
func (a *Agent) runTunnels(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	handler := a.Handler()
	running := map[string]context.CancelFunc{}
	changes := make(chan []string, 1)
	wg.Go(func() { a.followMasters(ctx, changes) })
	masters := a.cfg.Masters
	missing := time.NewTimer(0)
	defer missing.Stop()
	for {
		for _, addr := range masters {
			if running[addr] != nil || a.cfg.DialTunnel == nil {
				continue
			}
			one, cancel := context.WithCancel(ctx)
			running[addr] = cancel
			dial := func(ctx context.Context) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				return a.cfg.DialTunnel(ctx, addr)
			}
			wg.Go(func() { tunnel.Keep(one, dial, handler, a.log.With("master", addr)) })
		}
		select {
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return
		case <-missing.C:
			for addr, cancel := range running {
				if !slices.Contains(masters, addr) {
					cancel()
					delete(running, addr)
				}
			}
		case masters = <-changes:
			a.log.Info("the masters are", "addrs", masters)
			missing.Reset(leaveMaster)
			if a.cfg.OnMasters != nil {
				a.cfg.OnMasters(unique(append(slices.Clone(masters), a.cfg.Masters...)))
			}
		}
	}
}

// followMasters watches the endpoints of the kubernetes service, which list the masters.
func (a *Agent) followMasters(ctx context.Context, changes chan<- []string) {
	only := fieldTweak("metadata.name", "kubernetes")
	f := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithNamespace(v1.NamespaceDefault),
		informers.WithTransform(stripManaged), informers.WithTweakListOptions(only))
	informer := f.Core().V1().Endpoints().Informer()
	last := slices.Sorted(slices.Values(a.cfg.Masters))
	see := func(o any) {
		e, ok := o.(*v1.Endpoints)
		if !ok {
			return
		}
		addrs := addressesOf(e)
		if len(addrs) == 0 || slices.Equal(addrs, last) {
			return
		}
		last = addrs
		select {
		case changes <- addrs:
		case <-ctx.Done():
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, o any) { see(o) }})
	if err != nil {
		a.log.Error("watching the masters' addresses", "err", err)
		return
	}
	informer.RunWithContext(ctx)
}

func addressesOf(e *v1.Endpoints) []string {
	var out []string
	for _, s := range e.Subsets {
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				out = append(out, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
			for _, a := range s.NotReadyAddresses {
				out = append(out, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
