package agent

import (
	"context"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"

	"mgr/agent/probe"
)

// probing is what is being checked of one instance of a container.
type probing struct {
	id     string
	cancel context.CancelFunc
	kinds  map[probe.Kind]bool
}

// syncProbes runs the probes that the running containers need now: the startup probe alone until it has passed, then
// liveness and readiness; of a pod that ends, readiness only.
func (w *worker) syncProbes(ctx context.Context) {
	v := &w.view
	for _, m := range v.Members {
		p := w.probes[m.Spec.Name]
		if p != nil && (!m.running() || p.id != m.Current.ID) {
			p.cancel()
			delete(w.probes, m.Spec.Name)
			p = nil
		}
		// An agent that adopts running containers learns their addresses a moment later.
		if !m.running() || !m.Hooked || len(w.probedAt()) == 0 {
			continue
		}
		if p == nil {
			p = &probing{id: m.Current.ID, kinds: map[probe.Kind]bool{}, cancel: func() {}}
			if m.Spec.StartupProbe == nil && m.Spec.LivenessProbe == nil && m.Spec.ReadinessProbe == nil {
				w.probes[m.Spec.Name] = p
				continue
			}
		}
		if w.probes[m.Spec.Name] == nil {
			w.startProbing(ctx, m, p)
		}
	}
}

// startProbing starts one goroutine that goes through the startup probe and then runs the others.
func (w *worker) startProbing(ctx context.Context, m *member, p *probing) {
	ctx, p.cancel = context.WithCancel(ctx)
	w.probes[m.Spec.Name] = p
	spec, pod, current := m.Spec, w.view.Pod, *m.Current
	target := w.target(spec, current.ID, w.probedAt())
	loop := func(kind probe.Kind, p *v1.Probe) *probe.Loop {
		return &probe.Loop{
			Kind: kind, Probe: p, Target: target, Started: current.Started,
			Report:    func(ok bool) { w.post(func(time.Time) { w.probed(m, current.ID, kind, p, ok) }) },
			Unhealthy: func(message string) { w.refEvent(pod, spec.Name, v1.EventTypeWarning, "Unhealthy", "%s", message) },
		}
	}
	started := m.Started
	w.wg.Go(func() {
		if spec.StartupProbe != nil && !started {
			loop(probe.Startup, spec.StartupProbe).Run(ctx)
			if ctx.Err() != nil {
				return
			}
		}
		if spec.LivenessProbe != nil {
			w.wg.Go(func() { loop(probe.Liveness, spec.LivenessProbe).Run(ctx) })
		}
		if spec.ReadinessProbe != nil {
			loop(probe.Readiness, spec.ReadinessProbe).Run(ctx)
		}
	})
}

// probedAt are the addresses at which the pod is reached.
func (w *worker) probedAt() []netip.Addr {
	if w.view.Pod.Spec.HostNetwork {
		return w.a.cfg.NodeIPs
	}
	return w.view.IPs
}

func (w *worker) target(spec *v1.Container, id string, ips []netip.Addr) probe.Target {
	return probe.Target{
		Container: spec,
		IP: func() string {
			if len(ips) == 0 {
				return ""
			}
			return ips[0].String()
		},
		Exec: func(ctx context.Context, command []string) (string, int, error) {
			return w.a.execCombined(ctx, id, command)
		},
	}
}

// probed takes a probe's result into the view.
func (w *worker) probed(m *member, id string, kind probe.Kind, p *v1.Probe, ok bool) {
	if !m.running() || m.Current.ID != id {
		return
	}
	switch {
	case kind == probe.Readiness:
		m.Ready = ok
		return
	case kind == probe.Startup && ok:
		m.Started = true
		return
	case ok || w.view.ending():
		return
	}
	grace := w.view.grace()
	if p.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(max(*p.TerminationGracePeriodSeconds, 1)) * time.Second
	}
	what := "liveness"
	if kind == probe.Startup {
		what = "startup"
	}
	m.Kill = &killing{Message: "Container " + m.Spec.Name + " failed " + what + " probe, will be restarted", Grace: grace}
}
