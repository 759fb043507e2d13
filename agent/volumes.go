package agent

import (
	"context"
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
)

func (w *worker) mount(ctx context.Context) {
	w.view.Volumes.begin()
	w.stale = false
	pod := w.view.Pod
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		mounts, next, err := w.a.volumes.Mount(ctx, pod)
		return func(now time.Time) {
			w.view.Volumes.end(err, now, 500*time.Millisecond, 10*time.Second)
			w.refresh = next
			if err == nil {
				w.mounts = mounts
			} else if ctx.Err() == nil && w.view.Volumes.Tries <= 1 || w.view.Volumes.Tries%6 == 0 {
				w.mountFailed(err)
			}
		}
	})
}

func (w *worker) mountFailed(err error) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			w.event(v1.EventTypeWarning, "FailedMount", "%v", e)
		}
		return
	}
	w.event(v1.EventTypeWarning, "FailedMount", "%v", err)
}

// syncVolumes brings mounted content up to date after a change of what it shows, or before a token expires.
func (w *worker) syncVolumes(ctx context.Context, now time.Time) {
	v := &w.view
	due := w.stale || !w.refresh.IsZero() && !now.Before(w.refresh)
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
				// The content that is there stays; a source that was deleted is not news to the containers.
				w.log.Warn("refreshing volumes", "err", err)
				w.refresh = now.Add(time.Minute)
				return
			}
			w.mounts = mounts
		}
	})
}
