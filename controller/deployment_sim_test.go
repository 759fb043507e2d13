package controller

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// world plays Deployment, ReplicaSets and pods in memory, one small step at a time and in any order, with only the
// planner real. Pods are three numbers for each set; a set's status lags until it is its turn.
type world struct {
	d    *appsv1.Deployment
	sets map[string]*worldSet
	now  time.Time
	seq  int
}

type worldSet struct {
	*appsv1.ReplicaSet
	pods, available int32
}

func newWorld(replicas int32, surge, unavailable intstr.IntOrString) *world {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Template: podTemplate("web"), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			RevisionHistoryLimit: ptr.To[int32](2), ProgressDeadlineSeconds: ptr.To[int32](600),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}},
		},
	}
	return &world{d: d, sets: map[string]*worldSet{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// names of the sets, sorted: the order of a map must not decide a test.
func (w *world) names() []string { return slices.Sorted(maps.Keys(w.sets)) }

// step lets the Deployment controller act once and says whether it changed anything.
func (w *world) step() bool {
	w.now = w.now.Add(time.Second)
	var all []*appsv1.ReplicaSet
	for _, n := range w.names() {
		all = append(all, w.sets[n].ReplicaSet.DeepCopy())
	}
	running := map[types.UID]bool{}
	for _, s := range w.sets {
		running[s.UID] = s.pods > 0
	}
	p := planRollout(rollout{d: w.d, all: all, running: running, now: w.now})
	if p.create != nil {
		w.seq++
		p.create.UID = types.UID(fmt.Sprint(w.seq))
		p.create.CreationTimestamp = metav1.NewTime(w.now)
		w.sets[p.create.Name] = &worldSet{ReplicaSet: p.create}
	}
	for _, ch := range p.update {
		w.sets[ch.want.Name].ReplicaSet = ch.want
	}
	for _, s := range p.remove {
		delete(w.sets, s.Name)
	}
	statusChanged := !equality.Semantic.DeepEqual(w.d.Status, p.status)
	w.d.Status = p.status
	return p.create != nil || len(p.update)+len(p.remove) > 0 || statusChanged
}

// play lets a set's controller and its pods act; it says whether anything changed.
func (w *world) play(name string, healthy bool) bool {
	s := w.sets[name]
	if s == nil {
		return false
	}
	was := *s
	wasStatus := s.Status
	s.pods = replicasOf(s.ReplicaSet)
	s.available = min(s.available, s.pods) // unready pods go first
	if healthy {
		s.available = s.pods
	}
	s.Status.Replicas, s.Status.ReadyReplicas, s.Status.AvailableReplicas = s.pods, s.available, s.available
	return was.pods != s.pods || was.available != s.available || wasStatus.AvailableReplicas != s.available || wasStatus.Replicas != s.pods
}

func (w *world) settle(t *rapid.T) {
	for range 2000 {
		changed := w.step()
		for _, n := range w.names() {
			changed = w.play(n, true) || changed
		}
		if !changed {
			return
		}
	}
	t.Fatalf("the rollout never ends: %s", w)
}

func (w *world) String() string {
	out := fmt.Sprintf("want %d:", wanted(w.d))
	for _, n := range w.names() {
		s := w.sets[n]
		out += fmt.Sprintf(" %s(rev %s spec %d pods %d available %d)", n, s.Annotations[annotationRevision], replicasOf(s.ReplicaSet), s.pods, s.available)
	}
	return out
}

func (w *world) total(f func(*worldSet) int32) (n int32) {
	for _, s := range w.sets {
		n += f(s)
	}
	return n
}

// done checks that exactly the present template is running.
func (w *world) done(t *rapid.T, image string) {
	for _, s := range w.sets {
		want := int32(0)
		if s.Spec.Template.Spec.Containers[0].Image == image {
			want = wanted(w.d)
		}
		if s.pods != want {
			t.Fatalf("after the rollout to %s: %s", image, w)
		}
	}
	c := condition(&w.d.Status, appsv1.DeploymentProgressing)
	if c == nil || c.Reason != reasonSetAvailable && wanted(w.d) > 0 || w.d.Status.UpdatedReplicas != wanted(w.d) {
		t.Fatalf("status is %+v", w.d.Status)
	}
	if old := len(w.sets) - 1; old > int(*w.d.Spec.RevisionHistoryLimit) {
		t.Fatalf("%d old sets are kept, the limit is %d", old, *w.d.Spec.RevisionHistoryLimit)
	}
}

// TestRollingNeverBreaksItsBounds rolls out random templates, also before the last rollout has ended, with sets and pods
// acting in any order. There are never more pods than replicas+maxSurge and, once all were available, never fewer available
// ones than replicas-maxUnavailable.
func TestRollingNeverBreaksItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		surge, unavailable := rapid.Int32Range(0, 4).Draw(t, "surge"), rapid.Int32Range(0, 4).Draw(t, "unavailable")
		replicas := rapid.Int32Range(1, 12).Draw(t, "replicas")
		w := newWorld(replicas, intstr.FromInt32(surge), intstr.FromInt32(unavailable))
		w.settle(t)
		w.done(t, "demo:1")
		most, least := replicas+maxSurge(w.d), replicas-maxUnavailable(w.d)
		image := "demo:1"
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				image = fmt.Sprintf("demo:%d", rapid.IntRange(1, 5).Draw(t, "image"))
				w.d.Spec.Template.Spec.Containers[0].Image = image
				w.d.Generation++
			case 1, 2, 3:
				w.step()
			default:
				if names := w.names(); len(names) > 0 {
					w.play(rapid.SampledFrom(names).Draw(t, "set"), rapid.Bool().Draw(t, "healthy"))
				}
			}
			if n := w.total(func(s *worldSet) int32 { return replicasOf(s.ReplicaSet) }); n > most {
				t.Fatalf("%d replicas, at most %d are allowed: %s", n, most, w)
			}
			if n := w.total(func(s *worldSet) int32 { return min(s.available, replicasOf(s.ReplicaSet)) }); n < least {
				t.Fatalf("%d available, at least %d must be: %s", n, least, w)
			}
		}
		w.settle(t)
		w.done(t, image)
	})
}

// TestScalingInTheMiddleOfARollout changes template and number at any time; the end is always the same.
func TestScalingInTheMiddleOfARollout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.Int32Range(0, 12).Draw(t, "replicas"), intstr.FromString("25%"), intstr.FromString("25%"))
		if rapid.Bool().Draw(t, "recreate") {
			w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}
		image := "demo:1"
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				image = fmt.Sprintf("demo:%d", rapid.IntRange(1, 4).Draw(t, "image"))
				w.d.Spec.Template.Spec.Containers[0].Image = image
				w.d.Generation++
			case 1:
				w.d.Spec.Replicas = ptr.To(rapid.Int32Range(0, 15).Draw(t, "n"))
				w.d.Generation++
			case 2:
				w.d.Spec.Paused = !w.d.Spec.Paused
			case 3, 4, 5:
				before := w.sizes()
				w.step()
				if !rolling(w.d) && !w.d.Spec.Paused {
					w.oneTemplate(t, before)
				}
			default:
				if names := w.names(); len(names) > 0 {
					w.play(rapid.SampledFrom(names).Draw(t, "set"), rapid.Bool().Draw(t, "healthy"))
				}
			}
		}
		w.d.Spec.Paused = false
		w.settle(t)
		w.done(t, image)
	})
}

func (w *world) sizes() map[string]int32 {
	out := map[string]int32{}
	for n, s := range w.sets {
		out[n] = replicasOf(s.ReplicaSet)
	}
	return out
}

// oneTemplate: a Deployment that recreates gives no set its first pods while another one's are still there.
func (w *world) oneTemplate(t *rapid.T, before map[string]int32) {
	for _, n := range w.names() {
		if before[n] > 0 || replicasOf(w.sets[n].ReplicaSet) == 0 {
			continue
		}
		for _, other := range w.names() {
			if other != n && (w.sets[other].pods > 0 || replicasOf(w.sets[other].ReplicaSet) > 0) {
				t.Fatalf("%s begins before %s has ended: %s", n, other, w)
			}
		}
	}
}

func TestProportionalScaling(t *testing.T) {
	// Kubernetes' own example: 10 replicas with surge 3 and unavailable 2, stuck at 8 old and 5 new, scaled to 15.
	w := newWorld(10, intstr.FromInt32(3), intstr.FromInt32(2))
	for _, s := range []struct {
		name, image string
		n, avail    int32
	}{{"old", "demo:0", 8, 8}, {"new", "demo:1", 5, 0}} {
		w.seq++
		set := newSet(w.d, int64(w.seq))
		set.Name, set.UID, set.Spec.Template.Spec.Containers[0].Image = s.name, types.UID(s.name), s.image
		set.CreationTimestamp = metav1.NewTime(w.now.Add(time.Duration(w.seq)))
		setScale(set, w.d, s.n)
		set.Status.Replicas, set.Status.AvailableReplicas = s.n, s.avail
		w.sets[s.name] = &worldSet{ReplicaSet: set, pods: s.n, available: s.avail}
	}
	w.d.Spec.Replicas = ptr.To[int32](15)
	w.step()
	if o, n := replicasOf(w.sets["old"].ReplicaSet), replicasOf(w.sets["new"].ReplicaSet); o != 11 || n != 7 {
		t.Errorf("scaled to old %d, new %d; want 11 and 7", o, n)
	}
}

func TestFenceposts(t *testing.T) {
	for _, tt := range []struct {
		n                      int32
		surge, unavailable     string
		wantSurge, wantUnavail int32
	}{
		{10, "25%", "25%", 3, 2}, {4, "25%", "25%", 1, 1}, {1, "25%", "25%", 1, 0}, {3, "0", "0", 0, 1},
		{3, "0%", "10%", 0, 1}, {3, "1", "100%", 1, 3}, {2, "0", "5", 0, 2}, {0, "25%", "25%", 0, 0},
	} {
		s, u := intstr.Parse(tt.surge), intstr.Parse(tt.unavailable)
		w := newWorld(tt.n, s, u)
		if gs, gu := fenceposts(w.d); gs != tt.wantSurge || gu != tt.wantUnavail {
			t.Errorf("%d replicas, %s and %s: surge %d, unavailable %d; want %d, %d", tt.n, tt.surge, tt.unavailable, gs, gu, tt.wantSurge, tt.wantUnavail)
		}
	}
}

func TestProgressDeadline(t *testing.T) {
	w := newWorld(1, intstr.FromInt32(1), intstr.FromInt32(0))
	for range 5 {
		w.step()
		for _, n := range w.names() {
			w.play(n, false)
		}
	}
	reason := func() string { return condition(&w.d.Status, appsv1.DeploymentProgressing).Reason }
	if got := reason(); got != reasonSetUpdated {
		t.Fatalf("reason is %s while the rollout waits, want %s", got, reasonSetUpdated)
	}
	v := rollout{d: w.d, now: w.now}
	if in := v.deadlineIn(w.d.Status); in < 590*time.Second || in > 602*time.Second {
		t.Errorf("next look in %v, want about 600s", in)
	}
	w.now = w.now.Add(601 * time.Second)
	w.step()
	if got := condition(&w.d.Status, appsv1.DeploymentProgressing); got.Reason != reasonTimedOut || got.Status != "False" {
		t.Fatalf("condition is %+v after the deadline", got)
	}
	w.play(w.names()[0], true)
	w.step()
	if got := reason(); got != reasonSetAvailable {
		t.Errorf("reason is %s after the pod became available, want %s", got, reasonSetAvailable)
	}
	w.d.Spec.Paused = true
	w.step()
	if got := reason(); got != reasonPaused {
		t.Errorf("reason is %s, want %s", got, reasonPaused)
	}
}
