package scheduler

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
)

// reporters is the number of refusals written at the same time.
const reporters = 4

// reporter tells users why their pods wait: an event and the pod's PodScheduled condition. It never holds up the loop;
// of several refusals of one pod that wait to be written, the last counts.
type reporter struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	log      *slog.Logger

	mu      sync.Mutex
	pending map[podKey]report
	order   []podKey
	notify  chan struct{}
}

type report struct {
	pod     *corev1.Pod
	message string
}

func newReporter(cfg Config) *reporter {
	return &reporter{
		client: cfg.Client, recorder: cfg.Recorder, log: cfg.Log,
		pending: map[podKey]report{}, notify: make(chan struct{}, reporters),
	}
}

func (r *reporter) add(p *corev1.Pod, message string) {
	key := keyOf(p)
	r.mu.Lock()
	if _, waits := r.pending[key]; !waits {
		r.order = append(r.order, key)
	}
	r.pending[key] = report{p, message}
	r.mu.Unlock()
	select {
	case r.notify <- struct{}{}:
	default:
	}
}

func (r *reporter) next() (report, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.order) == 0 {
		return report{}, false
	}
	key := r.order[0]
	r.order = r.order[1:]
	next := r.pending[key]
	delete(r.pending, key)
	return next, true
}

// run writes until ctx is done, and returns when all its goroutines have.
func (r *reporter) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for range reporters {
		work.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-r.notify:
				}
				for next, found := r.next(); found && ctx.Err() == nil; next, found = r.next() {
					r.write(ctx, next)
				}
			}
		})
	}
}

func (r *reporter) write(ctx context.Context, it report) {
	r.recorder.Event(it.pod, corev1.EventTypeWarning, "FailedScheduling", it.message)
	for _, c := range it.pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && c.Message == it.message {
			return
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": it.pod.UID}, // another pod of this name is none of our business
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type:               corev1.PodScheduled,
			Status:             corev1.ConditionFalse,
			ObservedGeneration: it.pod.Generation,
			LastTransitionTime: metav1.Now(),
			Reason:             corev1.PodReasonUnschedulable,
			Message:            it.message,
		}}},
	})
	if err == nil {
		_, err = r.client.CoreV1().Pods(it.pod.Namespace).Patch(ctx, it.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		r.log.Warn("write why a pod waits", "pod", it.pod.Namespace+"/"+it.pod.Name, "error", err)
	}
}
