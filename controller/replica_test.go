package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func podTemplate(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "demo:1"}}, TerminationGracePeriodSeconds: ptr.To[int64](1)},
	}
}

func replicaSet(app string, n int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: app},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: podTemplate(app)},
	}
}

// replicasReach waits until the set, or the ReplicationController when rc, reports n of everything.
func (c *cluster) replicasReach(name string, n int32, rc bool) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s reaches %d", name, n), func() error {
		var s appsv1.ReplicaSetStatus
		var generation int64
		if rc {
			got, err := c.Client.CoreV1().ReplicationControllers("default").Get(context.Background(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			s, generation = viewOfRC(got).Status, got.Generation
		} else {
			got, err := c.Client.AppsV1().ReplicaSets("default").Get(context.Background(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			s, generation = got.Status, got.Generation
		}
		if s.Replicas != n || s.ReadyReplicas != n || s.AvailableReplicas != n || s.FullyLabeledReplicas != n || s.ObservedGeneration != generation {
			return fmt.Errorf("status is %+v, generation %d", s, generation)
		}
		return nil
	})
}

func (c *cluster) scale(name string, n int, rc bool) {
	c.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
	if rc {
		c.must(c.Client.CoreV1().ReplicationControllers("default").Patch(context.Background(), name, types.MergePatchType, patch, metav1.PatchOptions{}))
		return
	}
	c.must(c.Client.AppsV1().ReplicaSets("default").Patch(context.Background(), name, types.MergePatchType, patch, metav1.PatchOptions{}))
}

func TestReplicasKeepTheirNumber(t *testing.T) {
	for _, rc := range []bool{false, true} {
		t.Run(fmt.Sprintf("rc=%v", rc), func(t *testing.T) {
			c := newCluster(t)
			c.lead()
			ctx := context.Background()
			if rc {
				c.must(c.Client.CoreV1().ReplicationControllers("default").Create(ctx, &corev1.ReplicationController{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
					Spec:       corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](7), Selector: map[string]string{"app": "web"}, Template: ptr.To(podTemplate("web"))},
				}, metav1.CreateOptions{}))
			} else {
				c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("web", 7), metav1.CreateOptions{}))
			}
			c.replicasReach("web", 7, rc)
			pods := c.pods("web")
			if len(pods) != 7 {
				t.Errorf("%d pods were made for 7 replicas", len(pods))
			}
			if !strings.HasPrefix(pods[0].Name, "web-") || !ptr.Deref(metav1.GetControllerOf(&pods[0]).BlockOwnerDeletion, false) {
				t.Errorf("pod is %s with owner %+v", pods[0].Name, metav1.GetControllerOf(&pods[0]))
			}
			c.must(nil, c.Client.CoreV1().Pods("default").Delete(ctx, pods[0].Name, metav1.DeleteOptions{}))
			c.eventually("the deleted pod is replaced", func() error {
				now := c.pods("web")
				if len(now) != 7 || slices.ContainsFunc(now, func(p corev1.Pod) bool { return p.Name == pods[0].Name }) {
					return fmt.Errorf("%d pods", len(now))
				}
				return nil
			})
			c.replicasReach("web", 7, rc)
			c.scale("web", 2, rc)
			c.replicasReach("web", 2, rc)
			c.scale("web", 0, rc)
			c.replicasReach("web", 0, rc)
			c.quiet()
		})
	}
}

// TestReplicasThroughLeaderChanges ends leaderships in the middle of scaling; each new one must go on from what is there
// and never create what the last one had created.
func TestReplicasThroughLeaderChanges(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("web", 60), metav1.CreateOptions{}))
	made := map[types.UID]bool{}
	for i := range 12 {
		resign := c.lead(func(cfg *Config) { cfg.Synced = c.caughtUp })
		want := 5 * (i + 1)
		c.eventually("some pods are made", func() error {
			if n := len(c.pods("web")); n < want {
				return fmt.Errorf("%d pods, want %d", n, want)
			}
			return nil
		})
		resign()
		for _, p := range c.pods("web") {
			made[p.UID] = true
		}
	}
	c.lead(func(cfg *Config) { cfg.Synced = c.caughtUp })
	c.replicasReach("web", 60, false)
	for _, p := range c.pods("web") {
		made[p.UID] = true
	}
	if len(made) != 60 {
		t.Errorf("%d pods were made for 60 replicas", len(made))
	}
	c.quiet()
}

func TestReplicaSetAdoptsAndReleases(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx := context.Background()
	pods := c.Client.CoreV1().Pods("default")
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "orphan", Labels: map[string]string{"app": "web"}}, Spec: podTemplate("web").Spec}
	c.must(pods.Create(ctx, orphan, metav1.CreateOptions{}))
	c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("web", 2), metav1.CreateOptions{}))
	c.replicasReach("web", 2, false)
	got, err := pods.Get(ctx, "orphan", metav1.GetOptions{})
	c.must(got, err)
	if ref := metav1.GetControllerOf(got); ref == nil || ref.Kind != "ReplicaSet" || ref.Name != "web" {
		t.Fatalf("the orphan was not adopted: %+v", got.OwnerReferences)
	}
	c.must(pods.Patch(ctx, "orphan", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}))
	c.eventually("the pod that no longer matches is released and replaced", func() error {
		p, err := pods.Get(ctx, "orphan", metav1.GetOptions{})
		if err != nil || metav1.GetControllerOf(p) != nil {
			return fmt.Errorf("owners %+v, %w", p.OwnerReferences, err)
		}
		if n := len(c.pods("web")); n != 2 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}

// clientWith is a client whose creations of pods are seen, and may be refused, by hook.
func clientWith(c *cluster, hook func() error) kubernetes.Interface {
	cfg := rest.CopyConfig(c.Config)
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/pods") {
				if err := hook(); err != nil {
					return nil, err
				}
			}
			return rt.RoundTrip(r)
		})
	})
	client, err := kubernetes.NewForConfig(cfg)
	c.must(client, err)
	return client
}

func refusePods(c *cluster) kubernetes.Interface {
	return clientWith(c, func() error { return errors.New("no pods today") })
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestReplicaFailureIsReportedAndForgotten(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	stop := c.lead(func(cfg *Config) { cfg.Client = refusePods(c) })
	sets := c.Client.AppsV1().ReplicaSets("default")
	c.must(sets.Create(ctx, replicaSet("web", 2), metav1.CreateOptions{}))
	c.eventually("ReplicaFailure", func() error {
		got, err := sets.Get(ctx, "web", metav1.GetOptions{})
		if err != nil || len(got.Status.Conditions) != 1 {
			return fmt.Errorf("conditions %v, %w", got.Status.Conditions, err)
		}
		if x := got.Status.Conditions[0]; x.Type != appsv1.ReplicaSetReplicaFailure || x.Reason != "FailedCreate" || !strings.Contains(x.Message, "no pods today") {
			return fmt.Errorf("condition %+v", x)
		}
		return nil
	})
	stop()
	c.lead()
	c.replicasReach("web", 2, false)
	got, err := sets.Get(ctx, "web", metav1.GetOptions{})
	c.must(got, err)
	if len(got.Status.Conditions) != 0 {
		t.Errorf("conditions are %+v after all went well", got.Status.Conditions)
	}
}

func TestScaleDownOrder(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	pod := func(name string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: ago(100 * time.Hour)}}
		p.Spec.NodeName, p.Status.Phase = "n", corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ago(100 * time.Hour)}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	unready := func(p *corev1.Pod) { p.Status.Conditions = nil }
	pods := []*corev1.Pod{ // in the order in which they go
		pod("unassigned", func(p *corev1.Pod) { p.Spec.NodeName = "" }),
		pod("pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		pod("unknown", func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown }),
		pod("unready", unready),
		pod("cheap", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }),
		pod("doubled", func(p *corev1.Pod) { p.Spec.NodeName = "crowded" }),
		pod("later ready", func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = ago(time.Hour) }),
		pod("restarted", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }),
		pod("newer", func(p *corev1.Pod) { p.CreationTimestamp = ago(time.Hour) }),
		pod("keeper"),
		pod("dear", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "7"} }),
	}
	shuffled := slices.Clone(pods)
	slices.Reverse(shuffled)
	shuffled[0], shuffled[4] = shuffled[4], shuffled[0]
	plan := planReplicas(&appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](0)}}, shuffled, map[string]int{"n": 1, "crowded": 2}, now)
	for i, p := range plan.remove {
		if p.Name != pods[i].Name {
			t.Errorf("pod %d to go is %q, want %q", i, p.Name, pods[i].Name)
		}
	}
	for i, a := range pods {
		for j, b := range pods {
			if c := compareForScaleDown(a, b, map[string]int{"n": 1, "crowded": 2}, now); (i < j) != (c < 0) || (i == j) != (c == 0) {
				t.Errorf("compare(%q, %q) = %d", a.Name, b.Name, c)
			}
		}
	}
}

func TestPlanReplicas(t *testing.T) {
	for _, tt := range []struct{ have, want, create, remove int }{
		{0, 3, 3, 0}, {3, 3, 0, 0}, {5, 3, 0, 2}, {0, 5000, replicaBurst, 0}, {5000, 0, 0, replicaBurst},
	} {
		pods := make([]*corev1.Pod, tt.have)
		for i := range pods {
			pods[i] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(i))}}
		}
		plan := planReplicas(&appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(tt.want))}}, pods, nil, time.Now())
		if plan.create != tt.create || len(plan.remove) != tt.remove {
			t.Errorf("%d of %d: create %d, remove %d; want %d, %d", tt.have, tt.want, plan.create, len(plan.remove), tt.create, tt.remove)
		}
	}
}

func TestAvailabilityTakesMinReadySeconds(t *testing.T) {
	now := time.Now()
	set := replicaSet("web", 2)
	set.Spec.MinReadySeconds = 10
	ready := func(since time.Duration) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-since))}}}}
	}
	pods := []*corev1.Pod{ready(time.Minute), ready(4 * time.Second), ready(7 * time.Second), {}}
	s := replicaStatus(set, pods, 1, replicaPlan{}, nil, now)
	if s.Replicas != 4 || s.ReadyReplicas != 3 || s.AvailableReplicas != 1 || *s.TerminatingReplicas != 1 {
		t.Errorf("status is %+v", s)
	}
	if left, ok := nextAvailable(set, pods, now); !ok || left != 3*time.Second {
		t.Errorf("next look in %v, %v; want 3s", left, ok)
	}
}

func TestSlowStartStopsAtTheFirstFailure(t *testing.T) {
	calls := make(chan struct{}, 100)
	if err := slowStart(100, func() error { calls <- struct{}{}; return errors.New("no") }); err == nil || len(calls) != 1 {
		t.Errorf("%d calls, error %v; want one call and its error", len(calls), err)
	}
	for len(calls) > 0 {
		<-calls
	}
	if err := slowStart(100, func() error { calls <- struct{}{}; return nil }); err != nil || len(calls) != 100 {
		t.Errorf("%d calls, error %v; want 100", len(calls), err)
	}
	err := slowStart(3, func() error { panic("oops") })
	if err == nil || !strings.Contains(err.Error(), "oops") {
		t.Errorf("a panic became %v", err)
	}
}
