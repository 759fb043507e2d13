package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// holder waits for the lease to be held by this or another identity than old, and returns it.
func (r *rig) holder(old string) string {
	r.t.Helper()
	now := ""
	r.until("the lease is held", func() bool {
		l, err := r.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(r.t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			return false
		}
		now = l.Annotations[annotationAgent]
		return now != "" && now != old
	})
	return now
}

func TestASecondAgentOfTheSameNameStartsNothing(t *testing.T) {
	first := newRig(t)
	first.create(testPod("web"))
	first.wait("web", "web is ready", ready)
	held := first.holder("")
	// A copy of its directory on another machine: the same name, the same key, other containers.
	second := &rig{t: t, client: first.client, runtime: newFakeRuntime(), network: &fakeNetwork{}, dir: t.TempDir()}
	second.start()
	second.until("the cluster is told", func() bool {
		list, err := first.client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(list.Items, func(e v1.Event) bool {
			return e.Reason == "DuplicateNode" && e.InvolvedObject.Kind == "Node" && strings.Contains(e.Message, "copy of the data directory")
		})
	})
	if h := second.runtime.history(); len(h) > 0 {
		t.Errorf("the second agent began: %v", h)
	}
	if now := first.holder(""); now != held {
		t.Errorf("the lease went from %s to %s", held, now)
	}
	// When the first one has ended, the second is free to begin.
	first.stop()
	second.holder(held)
	second.until("its own container runs", func() bool { c, _, ok := second.runtime.last("web", "main"); return ok && c.State == ContainerRunning })
}

func TestAnAgentThatWasTakenOverEnds(t *testing.T) {
	r := newRig(t)
	r.holder("")
	ended := make(chan error, 1)
	r.stop() // of the rig: this one ends by itself
	a, err := New(r.agent.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	go func() { ended <- a.Run(ctx) }()
	leases := r.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	r.until("somebody else takes the lease", func() bool {
		l, err := leases.Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil || l.Spec.RenewTime.Time.Before(began) { // not before it has begun
			return false
		}
		metav1.SetMetaDataAnnotation(&l.ObjectMeta, annotationAgent, "0123@elsewhere")
		_, err = leases.Update(t.Context(), l, metav1.UpdateOptions{})
		return err == nil
	})
	select {
	case err := <-ended:
		if !errors.Is(err, errTakenOver) || !strings.Contains(err.Error(), "elsewhere") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("it goes on")
	}
}

func TestAnAgentKeepsItsNameAcrossRestarts(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	held := r.holder("")
	r.stop()
	r.start()
	r.create(testPod("next"))
	r.wait("next", "next is ready", ready)
	if now := r.holder(""); now != held {
		t.Errorf("it was %s and is %s", held, now)
	}
}
