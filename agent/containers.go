package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"mgr/agent/logs"
	"mgr/agent/probe"
	"mgr/agent/volume"
	"mgr/failpoint"
)

// start creates and starts one instance of a container, and runs its postStart hook.
func (w *worker) start(e errand, attempt int, now time.Time) {
	m := e.member
	if m.exited() && !m.Resized {
		m.restarted(now)
	}
	job := startJob{
		w: w, pod: w.view.Pod, ref: w.ref(), spec: m.Spec, role: m.Role, attempt: attempt,
		ips: w.view.IPs, netns: w.view.NetNS, mounts: w.mounts, imageID: m.ImageID,
	}
	if m.Previous != nil {
		job.outdated = m.Previous.ID
	}
	m.ImageReady = false
	w.effect(e.ctx, func(ctx context.Context) func(time.Time) {
		err := job.create(ctx)
		if err == nil && job.spec.Lifecycle != nil && job.spec.Lifecycle.PostStart != nil {
			w.post(func(now time.Time) { w.started(m, &job, now) })
			err = job.postStart(ctx)
		}
		return func(now time.Time) { w.startDone(e, &job, err, now) }
	})
}

// started takes a running instance into the view.
func (w *worker) started(m *member, job *startJob, now time.Time) {
	if m.Current != nil && m.Current.ID != job.id {
		m.Previous = m.Current
	}
	m.Current = &Container{
		ID: job.id, Pod: job.ref, Name: m.Spec.Name, Kind: job.role.String(), Attempt: job.attempt, Image: job.spec.Image,
		ImageID: job.imageID, Hash: containerHash(job.spec), State: ContainerRunning, Created: now, Started: now, LogPath: job.logPath,
		User: job.user,
	}
	m.Wait, m.Kill, m.Starts, m.Hooked = nil, nil, 0, false
	m.Told, m.PreStopped, m.Former, m.StopBy = false, false, false, time.Time{}
	m.Started, m.Ready = false, false
	m.Resized = false
	m.Size, m.Sized = sizeOf(job.pod, job.spec), job.spec.Resources.DeepCopy()
	w.touched[m.Spec.Name] = now
}

func (w *worker) startDone(e errand, job *startJob, err error, now time.Time) {
	cancelled := e.ctx.Err() != nil
	if !w.closed(e) {
		return
	}
	m := e.member
	if job.running && !(m.Current != nil && m.Current.ID == job.id) {
		w.started(m, job, now)
	}
	if err == nil {
		m.Hooked, m.Starts = true, 0
		m.Started, m.Ready = m.Spec.StartupProbe == nil, m.Spec.ReadinessProbe == nil
		// It may have ended already, in a listing that was passed over because the start was still under way.
		w.a.lister.again(w.uid)
		return
	}
	if job.running {
		// The hook failed: the instance is killed and restarted like one that failed by itself.
		m.Kill = &killing{Message: "FailedPostStartHook", By: now.Add(w.view.grace())}
		w.a.lister.again(w.uid)
		return
	}
	var waiting *errWaiting
	if cancelled || !errors.As(err, &waiting) {
		return
	}
	m.Wait = &v1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Error()}
	m.Retry = now.Add(grow(time.Second, 10*time.Second, m.Starts))
	m.Starts++
	if job.id != "" {
		w.touched[m.Spec.Name] = time.Time{}
		w.a.lister.again(w.uid)
	}
	w.containerEvent(m, v1.EventTypeWarning, "Failed", "Error: %v", waiting)
}

// startJob is what the start of one instance needs to know; it runs beside the worker.
type startJob struct {
	w        *worker
	pod      *v1.Pod
	ref      PodRef
	spec     *v1.Container
	role     role
	attempt  int
	ips      []netip.Addr
	netns    string
	mounts   volume.Mounts
	imageID  string
	outdated string // a dead instance to be removed

	id      string
	user    *User
	logPath string
	running bool
}

func (j *startJob) create(ctx context.Context) error {
	a := j.w.a
	for _, c := range a.lister.of(j.ref.UID) {
		if c.Name == j.spec.Name && (c.State == ContainerCreated || c.ID == j.outdated) {
			if err := a.bury(ctx, j.ref.UID, c); err != nil {
				j.w.log.Warn("removing an old container", "id", c.ID, "err", err)
			}
		}
	}
	began := time.Now()
	spec, err := j.containerSpec(ctx)
	if err != nil {
		return &errWaiting{"CreateContainerConfigError", err}
	}
	a.timing.since(stepSpec, began)
	j.logPath, began = spec.LogPath, time.Now()
	failpoint.Hit("container.create.before")
	if j.id, err = a.runtime.CreateContainer(ctx, spec); err != nil {
		return &errWaiting{"CreateContainerError", err}
	}
	if c, err := a.runtime.Container(ctx, j.id); err == nil {
		j.user = c.User
	}
	a.timing.since(stepCreate, began)
	j.w.refEvent(j.pod, j.spec.Name, v1.EventTypeNormal, "Created", "Container created")
	began = time.Now()
	failpoint.Hit("container.start.before")
	if err := a.runtime.StartContainer(ctx, j.id); err != nil {
		return &errWaiting{"RunContainerError", err}
	}
	a.timing.since(stepStart, began)
	j.running = true
	failpoint.Hit("container.start.after")
	j.w.refEvent(j.pod, j.spec.Name, v1.EventTypeNormal, "Started", "Container started")
	return nil
}

// bury removes a dead instance with its log and its last words.
func (a *Agent) bury(ctx context.Context, uid string, c Container) error {
	if err := a.runtime.RemoveContainer(ctx, c.ID); err != nil {
		return err
	}
	files := append(logs.Rotated(c.LogPath), a.terminationPath(uid, c.Name, c.Attempt))
	if c.State == ContainerExited {
		files = append(files, c.LogPath)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (j *startJob) postStart(ctx context.Context) error {
	ips := j.ips
	if j.pod.Spec.HostNetwork {
		ips = j.w.a.cfg.NodeIPs
	}
	if err := j.w.hook(ctx, j.pod, j.spec, j.id, ips, j.spec.Lifecycle.PostStart); err != nil {
		j.w.refEvent(j.pod, j.spec.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		return fmt.Errorf("postStart hook: %w", err)
	}
	return nil
}

// killing tells once of the end of a container, when the first step towards it is taken.
func (w *worker) killing(m *member, message string) {
	if m.Told {
		return
	}
	m.Told = true
	if message == "" {
		message = "Stopping container " + m.Spec.Name
	}
	w.containerEvent(m, v1.EventTypeNormal, "Killing", "%s", message)
}

// preStop runs the container's hook; step knows when it has had its time.
func (w *worker) preStop(e errand, a action) {
	m := e.member
	w.killing(m, a.Message)
	pod, spec, id, ips := w.view.Pod, m.Spec, m.Current.ID, w.probedAt()
	w.effect(e.ctx, func(ctx context.Context) func(time.Time) {
		if err := w.hook(ctx, pod, spec, id, ips, spec.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
			w.refEvent(pod, spec.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			w.log.Warn("preStop hook", "container", spec.Name, "err", err)
		}
		return func(time.Time) {
			if w.closed(e) {
				m.PreStopped = true
			}
		}
	})
}

// stop ends a container: stop signal, and after the grace a kill. If another stop is in flight, only its deadline shrinks.
func (w *worker) stop(e errand, a action, now time.Time) {
	m := e.member
	m.StopBy = now.Add(a.Grace)
	w.killing(m, a.Message)
	id := m.Current.ID
	w.effect(e.ctx, func(ctx context.Context) func(time.Time) {
		w.stopUntilDone(ctx, id, a.Grace)
		// The listing is in the inbox before the container counts as free, so the exit is seen first.
		w.a.lister.again(w.uid)
		w.a.lister.sync(ctx)
		return func(now time.Time) {
			w.take(now)
			w.closed(e)
		}
	})
}

// stopUntilDone repeats the stop while the runtime is away.
func (w *worker) stopUntilDone(ctx context.Context, id string, grace time.Duration) {
	for {
		err := w.a.runtime.StopContainer(ctx, id, grace)
		if err == nil || errors.Is(err, ErrNoContainer) || ctx.Err() != nil {
			return
		}
		w.log.Warn("stopping a container", "id", id, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// hook runs a lifecycle handler.
func (w *worker) hook(ctx context.Context, pod *v1.Pod, spec *v1.Container, id string, ips []netip.Addr, h *v1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out, code, err := w.a.execCombined(ctx, id, h.Exec.Command)
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out)
		}
		return err
	case h.HTTPGet != nil:
		return w.hookHTTP(ctx, pod, h.HTTPGet, w.target(spec, id, ips))
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("invalid handler: %v", h)
}

// hookHTTP asks a container once; any answer will do. One that says https and speaks http is asked again in its own language.
func (w *worker) hookHTTP(ctx context.Context, pod *v1.Pod, get *v1.HTTPGetAction, to probe.Target) error {
	r, err := probe.Request(ctx, get, to, "lifecycle")
	if err != nil {
		return err
	}
	client := probe.Client()
	resp, err := client.Do(r)
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		r = r.Clone(ctx)
		r.URL.Scheme = "http"
		r.Header.Del("Authorization")
		if resp, err = client.Do(r); err == nil {
			w.refEvent(pod, "", v1.EventTypeWarning, "LifecycleHTTPFallback",
				"request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", r.URL.Host)
		}
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// execCombined runs a command in a container and returns the head of its output, both streams mixed.
func (a *Agent) execCombined(ctx context.Context, id string, command []string) (string, int, error) {
	var out headBuffer
	code, err := a.runtime.Exec(ctx, id, ExecSpec{Command: command, Internal: true, Streams: Streams{Stdout: &out, Stderr: &out}})
	return out.String(), code, err
}

// headBuffer keeps the first 10 kB written to it, by any goroutine.
type headBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *headBuffer) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if room := 10<<10 - h.buf.Len(); room > 0 {
		h.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (h *headBuffer) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

var _ io.Writer = (*headBuffer)(nil)
