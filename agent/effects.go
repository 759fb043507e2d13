package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"mgr/failpoint"
)

// begin starts one action. It reports whether the view was changed at once, so that step should be asked again.
func (w *worker) begin(ctx context.Context, a action, now time.Time) (decided bool) {
	m := w.view.member(a.Member)
	switch a.Verb {
	case doPrepare:
		w.prepare(ctx)
	case doMount:
		w.mount(ctx)
	case doPull:
		w.pull(w.open(ctx, m, taskPull))
	case doStart:
		w.start(w.open(ctx, m, taskStart), a.Attempt, now)
	case doStop:
		w.stop(w.open(ctx, m, taskStop), a, now)
	case doPreStop:
		w.preStop(w.open(ctx, m, taskPreStop), a)
	case doCancel:
		w.cancels[a.Member]()
	case doHoldRestart:
		w.holdRestart(m)
		return true
	case doHoldPull:
		w.holdPull(m)
		return true
	case doFail:
		w.judge(verdict{Reason: a.Reason, Message: a.Message})
		return true
	case doResize:
		return w.resize(ctx, now)
	case doResized:
		w.resized()
		return true
	case doReset:
		w.reset(ctx, now)
	case doRelease:
		w.release(ctx)
	case doRemove:
		w.remove(ctx)
	case doDelete:
		w.deleteAPI(ctx)
	}
	return false
}

// errand identifies one effect on a container.
type errand struct {
	ctx    context.Context
	member *member
	number int
}

// open marks the container busy and gives its effect a context of its own, ending an earlier effect.
func (w *worker) open(ctx context.Context, m *member, t task) errand {
	if cancel := w.cancels[m.Spec.Name]; cancel != nil {
		cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	w.cancels[m.Spec.Name] = cancel
	w.errands++
	m.Busy, m.Errand = t, w.errands
	return errand{ctx, m, w.errands}
}

// closed marks the container free again; false if another effect has taken this one's place.
func (w *worker) closed(e errand) bool {
	m := e.member
	if m.Errand != e.number {
		return false
	}
	m.Busy = taskNone
	if cancel := w.cancels[m.Spec.Name]; cancel != nil {
		cancel()
		delete(w.cancels, m.Spec.Name)
	}
	return true
}

func (w *worker) ref() PodRef {
	p := w.view.Pod
	return PodRef{Namespace: p.Namespace, Name: p.Name, UID: w.uid}
}

func (w *worker) prepare(ctx context.Context) {
	w.view.Sandbox.begin()
	spec := w.a.sandboxSpec(w.view.Pod, w.ref())
	ports, pod := hostPorts(w.view.Pod), w.view.Pod
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		var sandbox Sandbox
		var ips []netip.Addr
		err := errors.Join(w.a.checkHostname(pod), w.allocate(ctx, pod))
		if err == nil {
			err = w.a.isolate(ctx, pod, &spec)
		}
		if err == nil {
			began := time.Now()
			sandbox, err = w.a.runtime.EnsureSandbox(ctx, spec)
			w.a.timing.since(stepSandbox, began)
			failpoint.Hit("pod.sandbox.made")
		}
		if err == nil && !spec.HostNetwork {
			defer w.a.timing.since(stepNetwork, time.Now())
			ips, err = w.a.network.Setup(ctx, PodNetwork{UID: w.uid, Namespace: spec.Pod.Namespace, Name: spec.Pod.Name, NetNS: sandbox.NetNS, HostPorts: ports})
			if err == nil && len(ips) == 0 {
				err = errors.New("the pod network gave no address")
			}
			failpoint.Hit("pod.network.made")
		}
		return func(now time.Time) {
			v := &w.view
			v.Sandbox.end(err, now, time.Second, time.Minute)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, errRefused) {
					w.event(v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
				}
				return
			}
			w.tellResolver(pod)
			v.NetNS, v.IPs, v.Born = sandbox.NetNS, ips, sandbox.Created
			w.former(sandbox.Fresh, now)
		}
	})
}

// tellResolver warns of what the pod's resolv.conf leaves out.
func (w *worker) tellResolver(pod *v1.Pod) {
	if _, notes, err := w.a.resolvConf(pod); err == nil {
		for _, n := range notes {
			w.event(v1.EventTypeWarning, "DNSConfigForming", "%s", n)
		}
	}
}

// former marks the containers that ran in an earlier sandbox, one that a reboot took: the pod's init containers run again.
func (w *worker) former(fresh bool, now time.Time) {
	changed := false
	for _, m := range w.view.Members {
		if m.Current == nil || m.Busy == taskStart {
			continue
		}
		m.Former = fresh || m.Current.Created.Before(w.view.Born)
		changed = changed || m.Former
		if m.Former && m.alive() {
			m.Kill = &killing{Message: "Pod sandbox changed, it will be killed and re-created.", By: now.Add(w.view.grace())}
		}
	}
	if changed {
		w.event(v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
}

// reset removes all containers that ran, so that the pod begins anew with its init containers, in the sandbox it has.
func (w *worker) reset(ctx context.Context, now time.Time) {
	w.view.Reset.begin()
	var old []Container
	for _, m := range w.view.Members {
		if m.Role != roleEphemeral && m.Current != nil {
			if restartsAll(m) {
				m.restarted(now)
			}
			old = append(old, *m.Current)
		}
	}
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		var errs []error
		for _, c := range old {
			errs = append(errs, w.a.runtime.RemoveContainer(ctx, c.ID))
		}
		err := errors.Join(errs...)
		if err == nil {
			// A listing from before must not bring back what was removed.
			w.a.lister.again(w.uid)
			w.a.lister.sync(ctx)
		}
		return func(now time.Time) {
			v := &w.view
			v.Reset.end(err, now, time.Second, time.Minute)
			if err != nil {
				w.log.Warn("removing containers for a new beginning", "err", err)
				return
			}
			w.take(now)
			w.beginAnew()
		}
	})
}

func (w *worker) beginAnew() {
	w.view.Restarting, w.view.Reset = false, stage{}
	for _, m := range w.view.Members {
		if m.Role == roleEphemeral || m.Current == nil {
			continue
		}
		m.Previous, m.Current, m.Former = m.Current, nil, false
		m.Wait = &v1.ContainerStateWaiting{Reason: "RestartingAllContainers", Message: "The container is removed because RestartAllContainers in place"}
	}
}

func hostPorts(pod *v1.Pod) []HostPort {
	var out []HostPort
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort > 0 {
					out = append(out, HostPort{Protocol: string(p.Protocol), HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort})
				}
			}
		}
	}
	return out
}

func (w *worker) holdRestart(m *member) {
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", m.RestartDelay, m.Spec.Name, w.view.Pod.Name, w.view.Pod.Namespace, w.uid)
	m.Wait = &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: message}
	w.containerEvent(m, v1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", m.Spec.Name, w.view.Pod.Name, w.view.Pod.Namespace, w.uid)
}

func (w *worker) holdPull(m *member) {
	m.Wait = &v1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", m.Spec.Image, m.Wait.Message)}
	w.containerEvent(m, v1.EventTypeNormal, "BackOff", "Back-off pulling image %q", m.Spec.Image)
	w.containerEvent(m, v1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
}

// release gives back what an ended pod holds of the node while its containers stay readable for logs.
func (w *worker) release(ctx context.Context) {
	w.view.Release.begin()
	w.a.objects.Hold(w.uid, nil)
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		err := errors.Join(w.a.network.Teardown(ctx, w.uid), w.a.volumes.Unmount(ctx, w.uid), w.a.devices.Release(w.uid))
		return func(now time.Time) {
			w.view.Release.end(err, now, time.Second, time.Minute)
			w.show()
			w.a.crowdChanged()
			if err != nil && ctx.Err() == nil {
				w.log.Warn("giving back network and volumes", "err", err)
			}
		}
	})
}

func (w *worker) remove(ctx context.Context) {
	w.view.Remove.begin()
	pod := w.ref()
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		err := w.a.scrub(ctx, pod)
		return func(now time.Time) {
			w.view.Remove.end(err, now, time.Second, time.Minute)
			if err != nil && ctx.Err() == nil {
				w.event(v1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
			}
		}
	})
}

// scrub removes every trace of a pod from the node.
func (a *Agent) scrub(ctx context.Context, pod PodRef) error {
	if err := a.runtime.RemoveSandbox(ctx, pod.UID); err != nil {
		return err
	}
	failpoint.Hit("pod.sandbox.removed")
	if err := a.volumes.Remove(ctx, pod.UID); err != nil {
		return err
	}
	if err := a.ids.release(pod.UID); err != nil {
		return err
	}
	if err := os.RemoveAll(a.logDir(pod)); err != nil {
		return fmt.Errorf("removing logs: %w", err)
	}
	return nil
}

func (a *Agent) logDir(pod PodRef) string {
	return filepath.Join(a.cfg.LogDir, pod.Namespace+"_"+pod.Name+"_"+pod.UID)
}

func (w *worker) deleteAPI(ctx context.Context) {
	w.view.Delete.begin()
	target := w.status.target
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		failpoint.Hit("pod.delete.before")
		err := w.a.deletePod(ctx, target)
		return func(now time.Time) {
			w.view.Delete.end(err, now, 500*time.Millisecond, 5*time.Second)
			if err != nil && ctx.Err() == nil {
				w.log.Warn("deleting the pod's object", "err", err)
			}
		}
	})
}

// deletePod ends an object's graceful deletion. It is no error if that very object is not there any more.
func (a *Agent) deletePod(ctx context.Context, p PodRef) error {
	options := metav1.NewPreconditionDeleteOptions(p.UID)
	options.GracePeriodSeconds = ptr.To[int64](0)
	err := a.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, *options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// errWaiting carries the reason that a container's status shows while it cannot be started.
type errWaiting struct {
	Reason string
	Err    error
}

func (e *errWaiting) Error() string { return e.Err.Error() }
func (e *errWaiting) Unwrap() error { return e.Err }
