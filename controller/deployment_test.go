package controller

import (
	"context"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func deployment(app string, n int32, strategy appsv1.DeploymentStrategyType) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: app, Annotations: map[string]string{"note": "mine"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: podTemplate(app),
			Strategy: appsv1.DeploymentStrategy{Type: strategy}, RevisionHistoryLimit: ptr.To[int32](2),
		},
	}
}

func (c *cluster) patchDeployment(name, patch string) {
	c.t.Helper()
	c.must(c.Client.AppsV1().Deployments("default").Patch(context.Background(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}))
}

func (c *cluster) setImage(name, image string) {
	c.t.Helper()
	c.patchDeployment(name, fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image))
}

// rolledOut waits until name runs n pods of image and nothing else, and says so.
func (c *cluster) rolledOut(name string, n int32, image string) *appsv1.Deployment {
	c.t.Helper()
	var d *appsv1.Deployment
	c.eventually(fmt.Sprintf("%s runs %d × %s", name, n, image), func() (err error) {
		if d, err = c.Client.AppsV1().Deployments("default").Get(context.Background(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration != d.Generation || s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n || s.UnavailableReplicas != 0 {
			return fmt.Errorf("status %+v", s)
		}
		if p := condition(&s, appsv1.DeploymentProgressing); p == nil || p.Reason != reasonSetAvailable {
			return fmt.Errorf("progressing %+v", p)
		}
		if a := condition(&s, appsv1.DeploymentAvailable); a == nil || a.Status != corev1.ConditionTrue {
			return fmt.Errorf("available %+v", a)
		}
		pods := c.pods(name)
		if len(pods) != int(n) || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.Containers[0].Image != image }) {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
	return d
}

func (c *cluster) sets(app string) []appsv1.ReplicaSet {
	c.t.Helper()
	list, err := c.Client.AppsV1().ReplicaSets("default").List(context.Background(), metav1.ListOptions{LabelSelector: "app=" + app})
	c.must(list, err)
	return list.Items
}

func TestDeploymentRollsOut(t *testing.T) {
	for _, strategy := range []appsv1.DeploymentStrategyType{appsv1.RollingUpdateDeploymentStrategyType, appsv1.RecreateDeploymentStrategyType} {
		t.Run(string(strategy), func(t *testing.T) {
			c := newCluster(t)
			c.lead()
			ctx := context.Background()
			c.must(c.Client.AppsV1().Deployments("default").Create(ctx, deployment("web", 4, strategy), metav1.CreateOptions{}))
			d := c.rolledOut("web", 4, "demo:1")
			set := c.sets("web")[0]
			hash := set.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
			if d.Annotations[annotationRevision] != "1" || set.Annotations[annotationRevision] != "1" || set.Annotations["note"] != "mine" ||
				hash == "" || set.Name != "web-"+hash || set.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
				t.Errorf("deployment annotations %v, set %s %v %v", d.Annotations, set.Name, set.Annotations, set.Labels)
			}
			for i := 2; i <= 5; i++ {
				c.setImage("web", fmt.Sprintf("demo:%d", i))
				d = c.rolledOut("web", 4, fmt.Sprintf("demo:%d", i))
			}
			c.eventually("old sets are removed", func() error {
				if n := len(c.sets("web")); n != 3 {
					return fmt.Errorf("%d sets, want the present one and 2 old", n)
				}
				return nil
			})
			if d.Annotations[annotationRevision] != "5" {
				t.Errorf("revision is %s, want 5", d.Annotations[annotationRevision])
			}
			// Back to an old template: its set is used again, as the newest revision.
			c.setImage("web", "demo:4")
			d = c.rolledOut("web", 4, "demo:4")
			for _, s := range c.sets("web") {
				if s.Spec.Template.Spec.Containers[0].Image == "demo:4" && (s.Annotations[annotationRevision] != "6" || s.Annotations[annotationRevisionHistory] != "4") {
					t.Errorf("annotations of the set that came back: %v", s.Annotations)
				}
			}
			c.eventually("the revision is noted", func() error {
				d, err := c.Client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
				if err != nil || d.Annotations[annotationRevision] != "6" {
					return fmt.Errorf("%v %w", d.Annotations, err)
				}
				return nil
			})
			c.quiet()
		})
	}
}

// TestDeploymentRolloverPauseAndScale does to a stuck rollout what users do, with leaders that come and go.
func TestDeploymentRolloverPauseAndScale(t *testing.T) {
	c := newCluster(t)
	synced := func(cfg *Config) { cfg.Synced = c.caughtUp }
	resign := c.lead(synced)
	ctx := context.Background()
	c.must(c.Client.AppsV1().Deployments("default").Create(ctx, deployment("web", 4, appsv1.RollingUpdateDeploymentStrategyType), metav1.CreateOptions{}))
	c.rolledOut("web", 4, "demo:1")
	c.agent.behave(func(a *agent) { a.ready = func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image != "demo:bad" } })
	c.setImage("web", "demo:bad")
	c.eventually("the rollout is stuck with 3 old and 2 new pods", func() error { return c.countImages(map[string]int{"demo:1": 3, "demo:bad": 2}) })
	resign()
	resign = c.lead(synced)
	c.quiet()
	if err := c.countImages(map[string]int{"demo:1": 3, "demo:bad": 2}); err != nil {
		t.Errorf("a new leader moved a stuck rollout: %v", err)
	}
	c.patchDeployment("web", `{"spec":{"replicas":8}}`)
	c.eventually("both sets grow", func() error { return c.countImages(map[string]int{"demo:1": 6, "demo:bad": 4}) })
	c.patchDeployment("web", `{"spec":{"paused":true}}`)
	c.setImage("web", "demo:3")
	c.eventually("the pause is told", func() error {
		d, err := c.Client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		if p := condition(&d.Status, appsv1.DeploymentProgressing); err != nil || p == nil || p.Reason != reasonPaused || d.Status.ObservedGeneration != d.Generation {
			return fmt.Errorf("progressing is %+v, %w", p, err)
		}
		return nil
	})
	c.quiet()
	if err := c.countImages(map[string]int{"demo:1": 6, "demo:bad": 4}); err != nil {
		t.Errorf("a paused deployment moved: %v", err)
	}
	resign()
	c.patchDeployment("web", `{"spec":{"paused":false}}`)
	c.lead(synced)
	c.rolledOut("web", 8, "demo:3")
	c.quiet()
}

func (c *cluster) countImages(want map[string]int) error {
	got := map[string]int{}
	for _, p := range c.pods("web") {
		if p.DeletionTimestamp == nil {
			got[p.Spec.Containers[0].Image]++
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("pods by image: %v, want %v", got, want)
	}
	return nil
}

func TestDeploymentSurvivesAHashCollision(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	d := deployment("web", 1, appsv1.RollingUpdateDeploymentStrategyType)
	made, err := c.Client.AppsV1().Deployments("default").Create(ctx, d, metav1.CreateOptions{})
	c.must(made, err)
	taken := replicaSet("squatter", 0)
	taken.Name = newSet(made, 1).Name
	c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, taken, metav1.CreateOptions{}))
	c.lead()
	got := c.rolledOut("web", 1, "demo:1")
	if ptr.Deref(got.Status.CollisionCount, 0) != 1 {
		t.Errorf("collisions: %v, want 1", got.Status.CollisionCount)
	}
}

func TestDeploymentTellsWhySetsCannotMakePods(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	c.lead(func(cfg *Config) { cfg.Client = refusePods(c) })
	c.must(c.Client.AppsV1().Deployments("default").Create(ctx, deployment("web", 1, appsv1.RollingUpdateDeploymentStrategyType), metav1.CreateOptions{}))
	c.eventually("ReplicaFailure", func() error {
		d, err := c.Client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		if f := condition(&d.Status, appsv1.DeploymentReplicaFailure); err != nil || f == nil || f.Reason != "FailedCreate" {
			return fmt.Errorf("conditions %+v, %w", d.Status.Conditions, err)
		}
		return nil
	})
}
