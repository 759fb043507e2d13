package admission

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	"mgr/api/auth/authtest"
)

func (w *world) priority(name string, value int32, global bool, policy *corev1.PreemptionPolicy) *schedulingv1.PriorityClass {
	c := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: global, PreemptionPolicy: policy}
	w.reader.Put("priorityclasses", c)
	return c
}

func TestPriorityComesFromItsClass(t *testing.T) {
	for _, tt := range []struct {
		class  string
		change func(*corev1.Pod)
		want   int32
		policy corev1.PreemptionPolicy
		err    string
	}{
		{"", nil, 10, corev1.PreemptLowerPriority, ""}, // the lower of two defaults
		{"urgent", nil, 1000, corev1.PreemptNever, ""},
		{"urgent", func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](1000) }, 1000, corev1.PreemptNever, ""},
		{"system-cluster-critical", nil, 2000000000, corev1.PreemptLowerPriority, ""},
		{"system-node-critical", nil, 2000001000, corev1.PreemptLowerPriority, ""},
		{"ghost", nil, 0, "", "no PriorityClass with name ghost was found"},
		{"", func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](7) }, 0, "", "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 10 from the given PriorityClass name"},
		{"urgent", func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority) }, 0, "",
			"the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name"},
	} {
		w := newWorld()
		w.priority("urgent", 1000, false, ptr.To(corev1.PreemptNever))
		w.priority("default-b", 20, true, ptr.To(corev1.PreemptLowerPriority))
		w.priority("default-a", 10, true, ptr.To(corev1.PreemptLowerPriority))
		p := pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = tt.class })
		if tt.change != nil {
			tt.change(p)
		}
		err := w.createPod(p)
		if tt.err != "" {
			if !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), tt.err) {
				t.Errorf("%q: got %v, want %s", tt.class, err, tt.err)
			}
			continue
		}
		if err != nil || *p.Spec.Priority != tt.want || *p.Spec.PreemptionPolicy != tt.policy {
			t.Errorf("%q: %v, %v, %v", tt.class, p.Spec.Priority, p.Spec.PreemptionPolicy, err)
		}
		if want := tt.class; want == "" && p.Spec.PriorityClassName != "default-a" {
			t.Errorf("the pod's class is %q", p.Spec.PriorityClassName)
		}
	}
}

func TestPodsWithoutAnyClassHavePriorityZero(t *testing.T) {
	p := pod()
	if err := newWorld().createPod(p); err != nil || *p.Spec.Priority != 0 || *p.Spec.PreemptionPolicy != corev1.PreemptLowerPriority || p.Spec.PriorityClassName != "" {
		t.Errorf("%+v, %v", p.Spec, err)
	}
}

func TestPriorityIsKeptByAnUpdateThatLeavesItOut(t *testing.T) {
	old := pod(func(p *corev1.Pod) {
		p.Spec.Priority, p.Spec.PreemptionPolicy = ptr.To[int32](5), ptr.To(corev1.PreemptNever)
	})
	p := pod()
	err := newWorld().do(request{op: admission.Update, obj: p, old: old, resource: "pods", kind: "Pod", namespace: "ns", name: "p"})
	if err != nil || *p.Spec.Priority != 5 || *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("%+v, %v", p.Spec, err)
	}
}

func TestOnlyOnePriorityClassIsTheDefault(t *testing.T) {
	w := newWorld()
	first := w.priority("first", 1, true, nil)
	do := func(op admission.Operation, c *schedulingv1.PriorityClass) error {
		return w.do(request{op: op, obj: c, old: c, group: "scheduling.k8s.io", resource: "priorityclasses", kind: "PriorityClass", name: c.Name})
	}
	second := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "second"}, GlobalDefault: true}
	want := `priorityclasses.scheduling.k8s.io "second" is forbidden: PriorityClass first is already marked as default. Only one default can exist`
	for _, op := range []admission.Operation{admission.Create, admission.Update} {
		if err := do(op, second); !apierrors.IsForbidden(err) || err.Error() != want {
			t.Errorf("%s: got %v, want %s", op, err, want)
		}
	}
	if err := do(admission.Update, first); err != nil {
		t.Errorf("the default itself: %v", err)
	}
}

func TestRuntimeClassSaysWhatItCostsAndWhere(t *testing.T) {
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Overhead: &nodev1.Overhead{PodFixed: amounts("cpu=1")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{
			{Key: "vm", Operator: corev1.TolerationOpExists}, {Key: "vm", Operator: corev1.TolerationOpEqual, Value: "x"}}}}
	in := func(name string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := pod(change...)
		p.Spec.RuntimeClassName = &name
		return p
	}
	w := newWorld()
	w.reader.Put("runtimeclasses", class)
	w.reader.Put("runtimeclasses", &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "plain"}})
	p := in("vm", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })
	if err := w.createPod(p); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(p.Spec.Overhead, amounts("cpu=1")) || p.Spec.NodeSelector["vm"] != "yes" || p.Spec.NodeSelector["disk"] != "ssd" {
		t.Errorf("the pod became %+v", p.Spec)
	}
	if n := slices.IndexFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == "vm" && t.Operator == corev1.TolerationOpExists }); n < 0 || len(p.Spec.Tolerations) != 3 {
		t.Errorf("it tolerates %+v", p.Spec.Tolerations)
	}
	p.Spec.Overhead[corev1.ResourceCPU] = amounts("cpu=9")[corev1.ResourceCPU]
	if class.Overhead.PodFixed.Cpu().String() != "1" {
		t.Error("the pod shares memory with the stored class")
	}
	overhead := func(p *corev1.Pod) { p.Spec.Overhead = amounts("cpu=2") }
	for want, p := range map[string]*corev1.Pod{
		`pod rejected: RuntimeClass "ghost" not found`:                                                  in("ghost"),
		"pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead":                    in("vm", overhead),
		"pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead":            in("plain", overhead),
		"conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no":      in("vm", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"vm": "no"} }),
		"forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead": pod(overhead),
	} {
		if err := w.createPod(p); !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestTolerationsAreJoined(t *testing.T) {
	exists := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
	}
	one, two := ptr.To[int64](1), ptr.To[int64](2)
	all := corev1.Toleration{Operator: corev1.TolerationOpExists}
	for _, tt := range []struct{ a, b, want []corev1.Toleration }{
		{[]corev1.Toleration{exists("a", nil)}, []corev1.Toleration{exists("b", nil)}, []corev1.Toleration{exists("a", nil), exists("b", nil)}},
		{[]corev1.Toleration{exists("a", nil)}, []corev1.Toleration{exists("a", nil)}, []corev1.Toleration{exists("a", nil)}},
		{[]corev1.Toleration{exists("a", one)}, []corev1.Toleration{exists("a", two)}, []corev1.Toleration{exists("a", two)}},
		{[]corev1.Toleration{exists("a", nil)}, []corev1.Toleration{exists("a", two)}, []corev1.Toleration{exists("a", nil)}},
		{[]corev1.Toleration{exists("a", one), exists("b", nil)}, []corev1.Toleration{all}, []corev1.Toleration{all}},
	} {
		if got := union(tt.a, tt.b); !equality.Semantic.DeepEqual(got, tt.want) {
			t.Errorf("%+v and %+v: %+v", tt.a, tt.b, got)
		}
	}
}

// marked makes a class that is the default since some seconds.
func marked(m *metav1.ObjectMeta, annotation string, since int64) {
	m.Annotations, m.CreationTimestamp = map[string]string{annotation: "true"}, metav1.NewTime(time.Unix(since, 0))
}

func TestTheNewestDefaultClassIsTaken(t *testing.T) {
	w := newWorld()
	put := func(name, annotation string, since int64) {
		s := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
		marked(&s.ObjectMeta, "storageclass."+annotation+"/is-default-class", since)
		i := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
		marked(&i.ObjectMeta, "ingressclass.kubernetes.io/is-default-class", since)
		w.reader.Put("storageclasses", s)
		w.reader.Put("ingressclasses", i)
	}
	create := func() (string, string) {
		t.Helper()
		c, i := claim(func(*corev1.PersistentVolumeClaim) {}), &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i"}}
		for _, r := range []request{
			{obj: c, resource: "persistentvolumeclaims", kind: "PersistentVolumeClaim"},
			{obj: i, group: "networking.k8s.io", resource: "ingresses", kind: "Ingress"},
		} {
			r.op, r.namespace = admission.Create, "ns"
			if err := w.do(r); err != nil {
				t.Fatal(err)
			}
		}
		return ptr.Deref(c.Spec.StorageClassName, "-"), ptr.Deref(i.Spec.IngressClassName, "-")
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "-"},
		{func() { put("old", "beta.kubernetes.io", 1) }, "old"},
		{func() { put("z", "kubernetes.io", 2) }, "z"},
		{func() { put("y", "kubernetes.io", 2) }, "y"},
	} {
		step.do()
		if s, i := create(); s != step.want || i != step.want {
			t.Errorf("storage class %s, ingress class %s, want %s", s, i, step.want)
		}
	}
}

func TestNamedClassesAreKept(t *testing.T) {
	w := newWorld()
	s := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "d"}}
	marked(&s.ObjectMeta, storageClassDefault, 1)
	w.reader.Put("storageclasses", s)
	for _, change := range []func(*corev1.PersistentVolumeClaim){
		func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("") },
		func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "x"}
		},
	} {
		c := claim(change)
		if err := w.do(request{op: admission.Create, obj: c, resource: "persistentvolumeclaims", kind: "PersistentVolumeClaim", namespace: "ns"}); err != nil || ptr.Deref(c.Spec.StorageClassName, "") != "" {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

func TestStorageIsProtected(t *testing.T) {
	w := newWorld()
	for finalizer, r := range map[string]request{
		"kubernetes.io/pv-protection":  {obj: &corev1.PersistentVolume{}, resource: "persistentvolumes", kind: "PersistentVolume"},
		"kubernetes.io/pvc-protection": {obj: claim(func(*corev1.PersistentVolumeClaim) {}), resource: "persistentvolumeclaims", kind: "PersistentVolumeClaim", namespace: "ns"},
		"kubernetes.io/vac-protection": {obj: &storagev1.VolumeAttributesClass{}, group: "storage.k8s.io", resource: "volumeattributesclasses", kind: "VolumeAttributesClass"},
	} {
		r.op = admission.Create
		for range 2 { // the second time it is there
			if err := w.do(r); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.obj.(authtest.Object).GetFinalizers(); !slices.Equal(got, []string{finalizer}) {
			t.Errorf("%s has the finalizers %v", r.resource, got)
		}
	}
}

func TestClaimsGrowWhereTheirClassAllowsIt(t *testing.T) {
	w := newWorld()
	w.reader.Put("storageclasses", &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "elastic"}, AllowVolumeExpansion: ptr.To(true)})
	w.reader.Put("storageclasses", &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fixed"}})
	sized := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return claim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.StorageClassName, c.Spec.Resources.Requests, c.Status.Phase = &class, amounts("storage="+size), phase
		})
	}
	const support = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
	for _, tt := range []struct {
		class, to string
		phase     corev1.PersistentVolumeClaimPhase
		err       string
	}{
		{"elastic", "2Gi", corev1.ClaimBound, ""},
		{"elastic", "2Gi", corev1.ClaimPending, "Only bound persistent volume claims can be expanded"},
		{"fixed", "2Gi", corev1.ClaimBound, support},
		{"ghost", "2Gi", corev1.ClaimBound, support},
		{"", "2Gi", corev1.ClaimBound, support},
		{"fixed", "1Gi", corev1.ClaimBound, ""},
	} {
		err := w.do(request{op: admission.Update, obj: sized(tt.class, tt.to, tt.phase), old: sized(tt.class, "1Gi", tt.phase),
			resource: "persistentvolumeclaims", kind: "PersistentVolumeClaim", namespace: "ns", name: "c"})
		if tt.err == "" && err != nil || tt.err != "" && (!apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), tt.err)) {
			t.Errorf("%s to %s: got %v, want %s", tt.class, tt.to, err, tt.err)
		}
	}
}
