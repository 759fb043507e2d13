package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/agent/volume"
	"mgr/failpoint"
)

// mountErrand is the key of the mount's cancellation; no container has that name.
const mountErrand = ""

func (w *worker) mount(ctx context.Context) {
	w.view.Volumes.begin()
	w.stale = false
	pod := w.view.Pod
	// An image that does not come must not hold up the pod's end.
	ctx, w.cancels[mountErrand] = context.WithCancel(ctx)
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		began := time.Now()
		mounts, next, err := w.a.volumes.Mount(ctx, pod)
		w.a.timing.since(stepVolumes, began)
		failpoint.Hit("pod.volumes.mounted")
		return func(now time.Time) {
			cancelled := ctx.Err() != nil
			if cancel := w.cancels[mountErrand]; cancel != nil {
				cancel()
				delete(w.cancels, mountErrand)
			}
			w.view.Volumes.end(err, now, 500*time.Millisecond, 10*time.Second)
			w.refresh = next
			if err == nil {
				w.mounts = mounts
				return
			}
			w.holdForImages(err)
			if !cancelled && (w.view.Volumes.Tries <= 1 || w.view.Volumes.Tries%6 == 0) {
				w.mountFailed(err)
			}
		}
	})
}

// mountErrors takes the errors of single volumes out of a failure.
func mountErrors(err error) []error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}

func (w *worker) mountFailed(err error) {
	for _, e := range mountErrors(err) {
		w.event(v1.EventTypeWarning, "FailedMount", "%v", e)
	}
}

// holdForImages lets the containers that mount an image that could not be had say so.
func (w *worker) holdForImages(err error) {
	for _, e := range mountErrors(err) {
		var failed *volume.Error
		var waiting *errWaiting
		if !errors.As(e, &failed) || !errors.As(e, &waiting) {
			continue
		}
		for _, m := range w.view.Members {
			if !m.alive() && slices.ContainsFunc(m.Spec.VolumeMounts, func(vm v1.VolumeMount) bool { return vm.Name == failed.Volume }) {
				m.Wait = &v1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Error()}
			}
		}
	}
}

// mountImage gets the image of a volume as its pull policy says and mounts it.
func (a *Agent) mountImage(ctx context.Context, pod *v1.Pod, v *v1.Volume, path string) error {
	w := a.worker(string(pod.UID))
	if w == nil {
		return errors.New("the pod is gone")
	}
	if _, err := w.ensureImage(ctx, pod, &v1.Container{Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy}); err != nil {
		return err
	}
	return a.runtime.MountImage(ctx, v.Image.Reference, path)
}

// nodeLabels are those of this node's object, or the ones it was started with while that is not known.
func (a *Agent) nodeLabels() map[string]string {
	if o, ok, err := a.node.GetStore().GetByKey(a.cfg.NodeName); err == nil && ok {
		return o.(*v1.Node).Labels
	}
	return a.cfg.Labels
}

// nodeUID is that of this node's object.
func (a *Agent) nodeUID() (types.UID, error) {
	o, ok, err := a.node.GetStore().GetByKey(a.cfg.NodeName)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", errors.New("the node's object is not known yet")
	}
	return o.(*v1.Node).UID, nil
}

// syncVolumes brings mounted content up to date after a change of what it shows, or before a token expires.
func (w *worker) syncVolumes(ctx context.Context, now time.Time) {
	v := &w.view
	due := w.stale || !w.refresh.IsZero() && !now.Before(w.refresh)
	if v.Volumes.Busy && v.ending() && w.cancels[mountErrand] != nil {
		w.cancels[mountErrand]()
	}
	if v.Volumes.Busy || v.ending() {
		w.refresh = time.Time{}
		return
	}
	if !due {
		return
	}
	w.stale, w.refresh = false, time.Time{}
	if !v.Volumes.Done {
		v.Volumes.Retry = now // what was missing may be there now
		w.tell(func(*inbox) {})
		return
	}
	v.Volumes.Busy = true
	pod := v.Pod
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		mounts, next, err := w.a.volumes.Mount(ctx, pod)
		return func(now time.Time) {
			v.Volumes.Busy = false
			w.refresh = next
			if err != nil {
				// The content that is there stays.
				w.log.Warn("refreshing volumes", "err", err)
				w.mountFailed(err)
				w.refresh = now.Add(time.Minute)
				return
			}
			w.mounts = mounts
		}
	})
}
