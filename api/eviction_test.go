package api_test

import (
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"mgr/api/apitest"
)

// evictable makes pods that run on a node, and a budget over them that allows so many disruptions.
func evictable(t *testing.T, s *apitest.Server, allowed int32, ready corev1.ConditionStatus, names ...string) {
	t.Helper()
	ctx := t.Context()
	labels := map[string]string{"app": "web"}
	for _, name := range names {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "main", Image: "demo"}}}}
		pod, err := s.Client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		if _, err := s.Client.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	budgets := s.Client.PolicyV1().PodDisruptionBudgets("default")
	if _, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b, err := budgets.Patch(ctx, "web", types.MergePatchType, []byte(`{"status": {"observedGeneration": 1, "desiredHealthy": 1, "currentHealthy": 1, "expectedPods": 2}, "spec": {"minAvailable": 9}}`), metav1.PatchOptions{}, "status")
	if err != nil || b.Spec.MinAvailable.IntValue() != 1 {
		t.Fatalf("patching the status: %v, %+v", err, b)
	}
	b.Status.DisruptionsAllowed = allowed
	if _, err := budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func eviction(name string) *policyv1.Eviction {
	return &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
}

func TestEvictionsSpendTheBudget(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	names := []string{"p1", "p2", "p3", "p4"}
	evictable(t, s, 2, corev1.ConditionTrue, names...)
	pods := s.Client.CoreV1().Pods("default")
	dry := eviction("p1")
	dry.DeleteOptions = &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	if err := pods.EvictV1(ctx, dry); err != nil {
		t.Errorf("dry run: %v", err)
	}
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = pods.EvictV1(ctx, eviction(name)) })
	}
	wg.Wait()
	evicted := map[string]bool{}
	for i, err := range errs {
		if err == nil {
			evicted[names[i]] = true
			continue
		}
		const want = "Cannot evict pod as it would violate the pod's disruption budget."
		if !apierrors.IsTooManyRequests(err) || err.Error() != want || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
			t.Errorf("%s: %v", names[i], err)
		}
		if c, _ := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause); c.Message != "The disruption budget web needs 1 healthy pods and has 1 currently" {
			t.Errorf("cause: %s", c.Message)
		}
	}
	if len(evicted) != 2 {
		t.Fatalf("evicted %v, the budget allows two", evicted)
	}
	b, err := s.Client.PolicyV1().PodDisruptionBudgets("default").Get(ctx, "web", metav1.GetOptions{})
	if err != nil || b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 2 {
		t.Errorf("budget: %v, %+v", err, b.Status)
	}
	for name := range evicted {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil || pod.DeletionTimestamp == nil || !strings.Contains(pod.Status.String(), "EvictionByEvictionAPI") {
			t.Errorf("%s: %v, %+v", name, err, pod)
		}
		if err := pods.EvictV1(ctx, eviction(name)); err != nil {
			t.Errorf("a pod that goes already: %v", err)
		}
	}
}

func TestEvictionOfUnreadyPods(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	evictable(t, s, 0, corev1.ConditionFalse, "p1")
	// There are as many healthy pods as there should be, so one that is not ready may go.
	if err := s.Client.PolicyV1beta1().Evictions("default").Evict(ctx, &policyv1beta1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p1", Namespace: "default"}}); err != nil {
		t.Errorf("as old clients ask: %v", err)
	}
	b, err := s.Client.PolicyV1().PodDisruptionBudgets("default").Get(ctx, "web", metav1.GetOptions{})
	if err != nil || len(b.Status.DisruptedPods) != 0 {
		t.Errorf("the budget was charged: %v, %+v", err, b.Status)
	}
	if err := s.Client.CoreV1().Pods("default").EvictV1(ctx, eviction("none")); !apierrors.IsNotFound(err) {
		t.Errorf("no such pod: %v", err)
	}
}

func TestEvictionWithTwoBudgets(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	evictable(t, s, 1, corev1.ConditionTrue, "p1")
	if _, err := s.Client.PolicyV1().PodDisruptionBudgets("default").Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Client.CoreV1().Pods("default").EvictV1(ctx, eviction("p1")); err == nil || !strings.Contains(err.Error(), "more than one PodDisruptionBudget") {
		t.Errorf("got %v", err)
	}
}

func TestScaleOfStatefulSet(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	labels := map[string]string{"app": "db"}
	sets := s.Client.AppsV1().StatefulSets("default")
	if _, err := sets.Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "x"}}}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := sets.UpdateScale(ctx, "db", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: autoscalingv1.ScaleSpec{Replicas: 4}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale, err := sets.GetScale(ctx, "db", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 4 || scale.Status.Selector != "app=db" {
		t.Errorf("%v, %+v", err, scale)
	}
}

// One autoscaler in two versions: what one writes the other reads, and nothing is lost.
func TestAutoscalerVersions(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	v1, v2 := s.Client.AutoscalingV1().HorizontalPodAutoscalers("default"), s.Client.AutoscalingV2().HorizontalPodAutoscalers("default")
	if _, err := v1.Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
		MaxReplicas: 3, ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := v2.Patch(ctx, "web", types.MergePatchType, []byte(`{"status": {"currentReplicas": 2, "desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}]}}`), metav1.PatchOptions{}, "status")
	if err != nil || len(got.Spec.Metrics) != 1 || *got.Spec.Metrics[0].Resource.Target.AverageUtilization != 80 {
		t.Fatalf("%v, %+v", err, got)
	}
	old, err := v1.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec": {"maxReplicas": 7}}`), metav1.PatchOptions{})
	if err != nil || old.Generation != 2 || old.Status.CurrentReplicas != 2 || old.Annotations["autoscaling.alpha.kubernetes.io/conditions"] == "" {
		t.Fatalf("%v, %+v", err, old)
	}
	got, err = v2.Get(ctx, "web", metav1.GetOptions{})
	if err != nil || got.Spec.MaxReplicas != 7 || len(got.Status.Conditions) != 1 || len(got.Annotations) != 0 {
		t.Errorf("%v, %+v", err, got)
	}
	managed := map[string]bool{}
	for _, m := range got.ManagedFields {
		managed[m.APIVersion+" "+m.Subresource] = true
	}
	if !managed["autoscaling/v1 "] || !managed["autoscaling/v2 status"] {
		t.Errorf("fields are managed in %v", managed)
	}
}
