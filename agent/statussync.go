package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"mgr/failpoint"
)

// statusSync keeps the pod's status in the API equal to the agent's view, with one patch in flight at a time and none when
// nothing differs.
type statusSync struct {
	target  PodRef // the object in the API; no name: there is none (a static pod without its mirror)
	base    v1.PodStatus
	version string
	busy    bool
	hold    time.Time // nothing that is worth a patch before; zero: not held
	retry   time.Time
	tries   int
	closed  bool // the object is gone: nobody reads any more
}

// take makes an object read from the API the base of the next patch, unless the base is newer.
func (s *statusSync) take(pod *v1.Pod) {
	ref := PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
	if n, known := s.compare(pod.ResourceVersion); s.target == ref && known && n <= 0 {
		return
	}
	if s.target != ref {
		s.closed = false
	}
	s.target, s.version = ref, pod.ResourceVersion
	s.base = *pod.Status.DeepCopy()
}

// compare says whether a version is older (negative) or newer than that of the base; false: there is none, or they cannot be compared.
func (s *statusSync) compare(version string) (n int, known bool) {
	if s.version == "" {
		return 0, false
	}
	n, err := resourceversion.CompareResourceVersion(version, s.version)
	return n, err == nil
}

// settling is how long the API hears nothing of a new pod that is on its way as it should be. Most run by then, and one patch
// says all; each costs a write on every master, at the very time when the pod wants to start.
const settling = 300 * time.Millisecond

// uneventful: the pod's containers wait for nothing but their turn.
func uneventful(s *v1.PodStatus) bool {
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			w := list[i].State.Waiting
			if w == nil || w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return false
			}
		}
	}
	return s.Phase == v1.PodPending
}

// syncStatus sends what has changed. It reports whether the view changed: the API now has the final status.
func (w *worker) syncStatus(ctx context.Context, now time.Time) (decided bool) {
	s, v := &w.status, &w.view
	if v.Flushed || s.busy || v.Gone {
		return false
	}
	if s.target.Name == "" || s.closed {
		v.Flushed = v.deleting() && v.stopped()
		return v.Flushed
	}
	// While an adopted pod's sandbox is looked up again, what the API says of it holds.
	if c, has := findCondition(&s.base, v1.PodReadyToStartContainers); has && c.Status == v1.ConditionTrue && !v.Sandbox.Done && v.Sandbox.Err == nil && !v.ending() {
		return false
	}
	want := computeStatus(v, &s.base, w.a.cfg.NodeIPs, now)
	w.a.deviceStatus(w.uid, &want)
	s.hold = time.Time{}
	if due := v.Started.Add(settling); s.base.StartTime == nil && now.Before(due) && !v.ending() && uneventful(&want) {
		s.hold = due
		return false
	}
	final := v.ending() && v.stopped()
	if sameStatus(&want, &s.base) {
		s.retry = time.Time{}
		v.Flushed = final && v.deleting()
		return v.Flushed
	}
	if now.Before(s.retry) {
		return false
	}
	s.busy = true
	target, base := s.target, s.base
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		began := time.Now()
		got, err := w.a.patchStatus(ctx, target, &base, &want)
		w.a.timing.since(stepStatus, began)
		return func(now time.Time) { w.patched(target, &want, got, err, now) }
	})
	return false
}

func (w *worker) patched(target PodRef, want *v1.PodStatus, got *v1.Pod, err error, now time.Time) {
	s := &w.status
	s.busy = false
	switch {
	case target != s.target:
	case err == nil:
		s.retry, s.tries = time.Time{}, 0
		if want.Phase == v1.PodRunning && s.base.Phase != v1.PodRunning {
			w.a.timing.since(stepTotal, w.view.Started)
		}
		if n, known := s.compare(got.ResourceVersion); known && n < 0 {
			break // somebody has changed it since, and the watch was faster than this answer
		}
		// What was sent is the base even if the server stored it a little differently; else the two would argue forever.
		s.base, s.version = *want, got.ResourceVersion
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		s.closed = true
	default:
		s.retry = now.Add(grow(200*time.Millisecond, 5*time.Second, s.tries))
		s.tries++
		w.log.Debug("patching the pod's status", "err", err)
	}
}

// patchStatus sends the difference of two statuses, for this very object and no later one of the same name.
func (a *Agent) patchStatus(ctx context.Context, p PodRef, from, to *v1.PodStatus) (*v1.Pod, error) {
	before, err := json.Marshal(v1.Pod{Status: *from})
	if err != nil {
		return nil, fmt.Errorf("encoding a status: %w", err)
	}
	after, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(p.UID)}, Status: *to})
	if err != nil {
		return nil, fmt.Errorf("encoding a status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("comparing statuses: %w", err)
	}
	failpoint.Hit("pod.status.before")
	return a.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}
