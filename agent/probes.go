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
	ending bool // readiness only
	cancel context.CancelFunc
}

// syncProbes runs the probes that the running containers need now: the startup probe alone until it has passed, then
// liveness and readiness; of a pod that ends, readiness only.
func (w *worker) syncProbes(ctx context.Context) {
	ending := w.view.ending()
	for _, m := range w.view.Members {
		p := w.probes[m.Spec.Name]
		if p != nil && (!m.running() || p.id != m.Current.ID || p.ending != ending) {
			p.cancel()
			delete(w.probes, m.Spec.Name)
			p = nil
		}
		// An agent that adopts running containers learns their addresses a moment later.
		if p != nil || !m.running() || !m.Hooked || len(w.probedAt()) == 0 {
			continue
		}
		w.startProbing(ctx, m, ending)
	}
}

// startProbing starts one goroutine that goes through the startup probe and then runs the others.
func (w *worker) startProbing(ctx context.Context, m *member, ending bool) {
	ctx, cancel := context.WithCancel(ctx)
	spec, pod, current, started := m.Spec, w.view.Pod, *m.Current, m.Started
	w.probes[m.Spec.Name] = &probing{id: current.ID, ending: ending, cancel: cancel}
	startup, liveness, readiness := spec.StartupProbe, spec.LivenessProbe, spec.ReadinessProbe
	if ending {
		startup, liveness = nil, nil
	}
	if startup == nil && liveness == nil && readiness == nil || ending && !started {
		return
	}
	target := w.target(spec, current.ID, w.probedAt())
	loop := func(kind probe.Kind, p *v1.Probe) *probe.Loop {
		return &probe.Loop{
			Kind: kind, Probe: p, Target: target, Started: current.Started,
			Report: func(ok bool) { w.post(func(now time.Time) { w.probed(m, current.ID, kind, p, ok, now) }) },
			Event:  func(reason, message string) { w.refEvent(pod, spec.Name, v1.EventTypeWarning, reason, "%s", message) },
			Checked: func(outcome string) {
				w.a.probeCounts.count(probeCount{string(kind), outcome, spec.Name, pod.Name, pod.Namespace, w.uid})
			},
		}
	}
	w.wg.Go(func() {
		if startup != nil && !started {
			loop(probe.Startup, startup).Run(ctx)
			if ctx.Err() != nil {
				return
			}
		}
		if liveness != nil {
			w.wg.Go(func() { loop(probe.Liveness, liveness).Run(ctx) })
		}
		if readiness != nil {
			loop(probe.Readiness, readiness).Run(ctx)
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
func (w *worker) probed(m *member, id string, kind probe.Kind, p *v1.Probe, ok bool, now time.Time) {
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
	message := m.title() + " failed " + what + " probe"
	if restartsAfterKill(w.view.Pod, m) {
		message += ", will be restarted"
	}
	m.Kill = &killing{Message: message, By: now.Add(grace)}
}

// title is how messages call the container.
func (m *member) title() string {
	if m.Role == roleInit || m.Role == roleSidecar {
		return "Init container " + m.Spec.Name
	}
	return "Container " + m.Spec.Name
}

// restartsAfterKill says whether a container that the agent kills is started again; what exit code it will have is not known.
func restartsAfterKill(pod *v1.Pod, m *member) bool {
	if m.Role == roleSidecar {
		return true
	}
	if m.Spec.RestartPolicy != nil {
		return *m.Spec.RestartPolicy != v1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever
}
