package controller

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlanPodGC(t *testing.T) {
	at := func(i int) metav1.Time { return metav1.NewTime(time.Unix(int64(i), 0)) }
	pod := func(name, node string, phase corev1.PodPhase, created int, deleted bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: at(created)}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
		if deleted {
			p.DeletionTimestamp = &metav1.Time{}
		}
		return p
	}
	pods := []*corev1.Pod{
		pod("runs", "n", corev1.PodRunning, 1, false), pod("going", "n", corev1.PodRunning, 1, true),
		pod("orphan", "gone", corev1.PodRunning, 1, false), pod("stuck", "off", corev1.PodRunning, 1, true), pod("off but wanted", "off", corev1.PodRunning, 1, false),
		pod("never placed", "", corev1.PodPending, 1, true), pod("waits", "", corev1.PodPending, 1, false),
		pod("done 3", "n", corev1.PodSucceeded, 3, false), pod("done 1", "n", corev1.PodFailed, 1, false), pod("done 2", "n", corev1.PodSucceeded, 2, false),
	}
	var got []string
	for _, g := range planPodGC(pods, 1, map[string]bool{"gone": true}, map[string]bool{"off": true}) {
		got = append(got, g.pod.Name)
	}
	if want := "[orphan stuck never placed done 1 done 2]"; fmt.Sprint(got) != want {
		t.Errorf("garbage is %v, want %v", got, want)
	}
}

// TestPodsOfADeletedNodeGo: after the quarantine, not before, and a node that comes back in time keeps its pods.
func TestPodsOfADeletedNodeGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.lead(withGrace, func(cfg *Config) { cfg.Quarantine = DefaultQuarantine })
		f := newFleet(c, 2)
		f.takePods()
		ctx := context.Background()
		c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("web", 4), metav1.CreateOptions{}))
		c.replicasReach("web", 4, false)
		f.lose(true, "n1") // its agent is gone for good
		c.must(nil, c.Client.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}))
		timer := time.NewTimer(DefaultQuarantine - time.Second)
		<-timer.C
		if n := c.running("web", "n2"); n != 2 {
			t.Errorf("%d pods of the missing node before the end of the quarantine, want 2", n)
		}
		timer.Reset(4 * time.Second)
		<-timer.C
		if n := c.running("web", "n1"); n != 4 || len(c.pods("web")) != 4 {
			t.Errorf("%d pods run, %d are known; want 4, 4", n, len(c.pods("web")))
		}
		c.quiet()
	})
}
