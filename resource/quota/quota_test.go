package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func list(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

// said writes a list as "cpu=1 pods=2", without what is zero.
func said(l corev1.ResourceList) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(l)) {
		if q := l[name]; !q.IsZero() {
			out = append(out, fmt.Sprintf("%s=%s", name, q.String()))
		}
	}
	return strings.Join(out, " ")
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func asks(requests, limits string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
	}
}

func deleted(at time.Time, grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(at)), &grace
	}
}

func TestUsage(t *testing.T) {
	class := "gold"
	for _, tt := range []struct {
		name string
		obj  runtime.Object
		want string
	}{
		{"a bare pod", pod(), "count/pods=1 pods=1"},
		{"requests and limits", pod(asks("cpu=1 memory=1Gi ephemeral-storage=2Gi", "cpu=2 memory=2Gi ephemeral-storage=3Gi")),
			"count/pods=1 cpu=1 ephemeral-storage=2Gi limits.cpu=2 limits.ephemeral-storage=3Gi limits.memory=2Gi memory=1Gi pods=1 requests.cpu=1 requests.ephemeral-storage=2Gi requests.memory=1Gi"},
		{"extended resources and huge pages", pod(asks("example.com/gpu=2 hugepages-2Mi=4Mi", "example.com/gpu=2")),
			"count/pods=1 hugepages-2Mi=4Mi pods=1 requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi"},
		{"init containers and sidecars", pod(asks("cpu=1", ""), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{
				{Name: "side", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Resources: corev1.ResourceRequirements{Requests: list("cpu=1")}},
				{Name: "init", Resources: corev1.ResourceRequirements{Requests: list("cpu=3")}},
			}
		}), "count/pods=1 cpu=4 pods=1 requests.cpu=4"},
		{"overhead", pod(asks("cpu=1", ""), func(p *corev1.Pod) { p.Spec.Overhead = list("cpu=250m") }), "count/pods=1 cpu=1250m pods=1 requests.cpu=1250m"},
		{"a pod that succeeded", pod(asks("cpu=1", ""), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "count/pods=1"},
		{"a pod that failed", pod(asks("cpu=1", ""), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), "count/pods=1"},
		{"a pod in its grace", pod(deleted(noon.Add(-10*time.Second), 30)), "count/pods=1 pods=1"},
		{"a pod beyond its grace", pod(deleted(noon.Add(-31*time.Second), 30)), "count/pods=1"},
		{"a service", &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: make([]corev1.ServicePort, 2)}}, "count/services=1 services=1"},
		{"a node port service", &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 2)}}, "count/services=1 services=1 services.nodeports=2"},
		{"a load balancer", &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: make([]corev1.ServicePort, 2)}}, "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"},
		{"a load balancer without node ports", &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: ptr.To(false),
			Ports: []corev1.ServicePort{{NodePort: 30000}, {}}}}, "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1"},
		{"a claim", &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: list("storage=1Gi")}},
			Status: corev1.PersistentVolumeClaimStatus{AllocatedResources: list("storage=2Gi")}},
			"count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"},
		{"a resource claim", &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}},
			{FirstAvailable: []resourcev1.DeviceSubRequest{
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3},
				{DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeAll},
			}},
		}}}}, "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=5 nic.deviceclass.resource.k8s.io/devices=32"},
		{"a config map", &corev1.ConfigMap{}, "configmaps=1 count/configmaps=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			used, err := measureOf(t, tt.obj).Usage(tt.obj)
			if err != nil || said(used) != tt.want {
				t.Errorf("got %s, %v\nwant %s", said(used), err, tt.want)
			}
		})
	}
}

func measures(l Lister) *Measures { return New(l, func() time.Time { return noon }) }

func measureOf(t *testing.T, obj runtime.Object) interface {
	Usage(runtime.Object) (corev1.ResourceList, error)
} {
	t.Helper()
	gr := map[string]schema.GroupResource{
		"*v1.Pod": {Resource: "pods"}, "*v1.Service": {Resource: "services"}, "*v1.ConfigMap": {Resource: "configmaps"},
		"*v1.PersistentVolumeClaim": {Resource: "persistentvolumeclaims"}, "*v1.ResourceClaim": {Group: "resource.k8s.io", Resource: "resourceclaims"},
	}[fmt.Sprintf("%T", obj)]
	e := measures(nil).Get(gr)
	if e == nil {
		t.Fatalf("nothing measures %s", gr)
	}
	return e
}

func TestScopes(t *testing.T) {
	deadline := func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) }
	class := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.PriorityClassName = name }
	}
	elsewhere := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{PodAffinityTerm: corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}}}}}
	}
	exists := func(s corev1.ResourceQuotaScope) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists}
	}
	priority := func(op corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: op, Values: values}
	}
	attributes := func(op corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeVolumeAttributesClass, Operator: op, Values: values}
	}
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("fast")},
		Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: ptr.To("slow")}}
	for _, tt := range []struct {
		scope corev1.ScopedResourceSelectorRequirement
		obj   runtime.Object
		want  bool
	}{
		{exists(corev1.ResourceQuotaScopeTerminating), pod(deadline), true},
		{exists(corev1.ResourceQuotaScopeTerminating), pod(), false},
		{exists(corev1.ResourceQuotaScopeNotTerminating), pod(), true},
		{exists(corev1.ResourceQuotaScopeNotTerminating), pod(deadline), false},
		{exists(corev1.ResourceQuotaScopeBestEffort), pod(), true},
		{exists(corev1.ResourceQuotaScopeBestEffort), pod(asks("cpu=1", "")), false},
		{exists(corev1.ResourceQuotaScopeNotBestEffort), pod(asks("cpu=1", "")), true},
		{exists(corev1.ResourceQuotaScopeNotBestEffort), pod(), false},
		{exists(corev1.ResourceQuotaScopePriorityClass), pod(class("high")), true},
		{exists(corev1.ResourceQuotaScopePriorityClass), pod(), false},
		{priority(corev1.ScopeSelectorOpIn, "high", "low"), pod(class("high")), true},
		{priority(corev1.ScopeSelectorOpIn, "low"), pod(class("high")), false},
		{priority(corev1.ScopeSelectorOpIn, "low"), pod(), false},
		{priority(corev1.ScopeSelectorOpNotIn, "low"), pod(class("high")), true},
		{priority(corev1.ScopeSelectorOpNotIn, "high"), pod(class("high")), false},
		{priority(corev1.ScopeSelectorOpNotIn, "high"), pod(), true},
		{priority(corev1.ScopeSelectorOpDoesNotExist), pod(), true},
		{priority(corev1.ScopeSelectorOpDoesNotExist), pod(class("high")), false},
		{exists(corev1.ResourceQuotaScopeCrossNamespacePodAffinity), pod(elsewhere), true},
		{exists(corev1.ResourceQuotaScopeCrossNamespacePodAffinity), pod(), false},
		{attributes(corev1.ScopeSelectorOpIn, "slow"), claim, true},
		{attributes(corev1.ScopeSelectorOpIn, "other"), claim, false},
		{attributes(corev1.ScopeSelectorOpExists), &corev1.PersistentVolumeClaim{}, false},
		{exists(corev1.ResourceQuotaScopeBestEffort), claim, false},
	} {
		gr := schema.GroupResource{Resource: "pods"}
		if _, ok := tt.obj.(*corev1.PersistentVolumeClaim); ok {
			gr.Resource = "persistentvolumeclaims"
		}
		got, err := measures(nil).by[gr].in(tt.scope, tt.obj)
		if err != nil || got != tt.want {
			t.Errorf("%+v: %v, %v, want %v", tt.scope, got, err, tt.want)
		}
	}
	if _, err := selects(priority("Like", "x"), "x"); err == nil {
		t.Error("an operator that does not exist was taken")
	}
}

func TestContainersMustSayWhatTheyNeed(t *testing.T) {
	limited := []corev1.ResourceName{"limits.cpu", "requests.memory", "requests.ephemeral-storage", "pods"}
	p := pod(asks("memory=1Gi", ""), func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "b"}, {Name: "a"}}
	})
	e := measures(nil).Get(schema.GroupResource{Resource: "pods"})
	if err := e.Constraints(limited, p); err == nil || err.Error() != "must specify limits.cpu for: a,b,c; requests.memory for: a,b" {
		t.Errorf("got %v", err)
	}
	p.Spec.Resources = &corev1.ResourceRequirements{Limits: list("cpu=1")}
	if err := e.Constraints(limited, p); err != nil {
		t.Errorf("the pod says it for all: %v", err)
	}
}

func TestWhatIsCounted(t *testing.T) {
	m := measures(nil)
	for name, want := range map[string]string{
		"pods": "pods", "requests.cpu": "pods", "requests.example.com/gpu": "pods", "hugepages-2Mi": "pods", "requests.hugepages-2Mi": "pods",
		"count/pods": "pods", "services.nodeports": "services", "secrets": "secrets", "count/secrets": "secrets",
		"count/deployments.apps": "deployments.apps", "replicationcontrollers": "replicationcontrollers", "resourcequotas": "resourcequotas",
		"gold.storageclass.storage.k8s.io/requests.storage": "persistentvolumeclaims", "requests.storage": "persistentvolumeclaims",
		"gpu.deviceclass.resource.k8s.io/devices": "resourceclaims.resource.k8s.io",
		"count/events": "", "count/deployments.extensions": "", "requests.kubernetes.io/x": "", "nonsense": "",
	} {
		var by []string
		for gr := range m.by {
			if m.Counted(gr, list(name+"=1")) {
				by = append(by, gr.String())
			}
		}
		if got := strings.Join(by, " "); got != want {
			t.Errorf("%s is counted on %q, want %q", name, got, want)
		}
	}
}

func TestHandles(t *testing.T) {
	m := measures(nil)
	deadline := pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) })
	for _, tt := range []struct {
		resource, sub string
		op            admission.Operation
		obj, old      runtime.Object
		want          bool
	}{
		{"pods", "", admission.Create, pod(), nil, true},
		{"pods", "", admission.Update, pod(), pod(), false},
		{"pods", "", admission.Update, deadline, pod(), true},
		{"pods", "resize", admission.Update, pod(), pod(), true},
		{"pods", "status", admission.Update, deadline, pod(), false},
		{"services", "", admission.Update, &corev1.Service{}, &corev1.Service{}, true},
		{"services", "status", admission.Update, &corev1.Service{}, &corev1.Service{}, false},
		{"configmaps", "", admission.Create, &corev1.ConfigMap{}, nil, true},
		{"configmaps", "", admission.Update, &corev1.ConfigMap{}, &corev1.ConfigMap{}, false},
		{"persistentvolumeclaims", "status", admission.Update, &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolumeClaim{}, false},
		{"persistentvolumeclaims", "status", admission.Update, &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{AllocatedResources: list("storage=1Gi")}}, &corev1.PersistentVolumeClaim{}, true},
	} {
		gvr := schema.GroupVersionResource{Version: "v1", Resource: tt.resource}
		a := admission.NewAttributesRecord(tt.obj, tt.old, schema.GroupVersionKind{}, "ns", "x", gvr, tt.sub, tt.op, nil, false, nil)
		if got := m.Get(gvr.GroupResource()).Handles(a); got != tt.want {
			t.Errorf("%s %s/%s: %v, want %v", tt.op, tt.resource, tt.sub, got, tt.want)
		}
	}
}

func TestCurrent(t *testing.T) {
	m := measures(func(gr schema.GroupResource, _ string) ([]runtime.Object, error) {
		switch gr.Resource {
		case "pods":
			return []runtime.Object{pod(asks("cpu=1", "")), pod(asks("cpu=2", ""), func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) }),
				pod(asks("cpu=4", ""), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, nil
		case "secrets":
			return []runtime.Object{&corev1.Secret{}, &corev1.Secret{}}, nil
		}
		return nil, nil
	})
	q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: list("pods=9 count/pods=9 requests.cpu=9 secrets=9 services=9 nonsense=9")}}
	check := func(want string, measured int) {
		t.Helper()
		status, err := m.Current(q)
		if err != nil || said(status.Used) != want || len(status.Used) != measured || len(status.Hard) != len(q.Spec.Hard) {
			t.Errorf("used %s of %d, %v, want %s of %d", said(status.Used), len(status.Used), err, want, measured)
		}
		if !m.Stale(q) {
			t.Error("a quota without status is not stale")
		}
		q.Status = status
		if m.Stale(q) {
			t.Error("a quota with the current status is stale")
		}
	}
	check("count/pods=3 pods=2 requests.cpu=3 secrets=2", 5)
	q.Spec.Hard = list("pods=1 requests.cpu=1")
	q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}
	check("pods=1 requests.cpu=1", 2)
}
