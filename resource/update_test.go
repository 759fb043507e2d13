package resource

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// stored is an object as the API server would have it, with what makes an update valid.
func stored[T runtime.Object](t *testing.T, text string) T {
	t.Helper()
	obj := decode(t, []byte(text))[0]
	obj.(metav1.Object).SetResourceVersion("1")
	if errs := create(t, obj); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	return obj.(T)
}

// write does with an update what the API server does on PUT; "" is the main path.
func write(t *testing.T, subresource string, obj, old runtime.Object) string {
	t.Helper()
	k := LookupKind(obj.GetObjectKind().GroupVersionKind())
	rules := k.Rules
	for _, s := range k.Subresources {
		if s.Name == subresource {
			rules = *s.Rules
		}
	}
	ctx := context.Background()
	if rules.Prepare != nil {
		rules.Prepare(ctx, obj, old)
	}
	if k.Allocate != nil && subresource == "" {
		if err := k.Allocate(obj, old, &countingAllocator{picked: 50}); err != nil {
			return err.Error()
		}
	}
	if errs := rules.Validate(ctx, obj, old); len(errs) > 0 {
		return errs.ToAggregate().Error()
	}
	return ""
}

const plainPod = `
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: default}
spec:
  nodeName: node-1
  activeDeadlineSeconds: 100
  tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]
  initContainers: [{name: init, image: demo}]
  containers: [{name: main, image: demo}]
`

func TestPodUpdates(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		refuse string // part of the text; "": let through
	}{
		"image":           {change: func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" }},
		"init image":      {change: func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "other" }},
		"sooner deadline": {change: func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](10) }},
		"later deadline":  {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1000) }, "must be less than or equal to previous value"},
		"no deadline":     {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, "must not update from a positive integer to nil value"},
		"more tolerations": {change: func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: "Exists"})
		}},
		"longer toleration":  {change: func(p *corev1.Pod) { p.Spec.Tolerations[0].TolerationSeconds = ptr.To[int64](50) }},
		"other toleration":   {func(p *corev1.Pod) { p.Spec.Tolerations[0].Key = "b" }, "existing toleration can not be modified except its tolerationSeconds"},
		"labels":             {change: func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }},
		"node":               {func(p *corev1.Pod) { p.Spec.NodeName = "node-2" }, "pod updates may not change fields other than `spec.containers[*].image`"},
		"command":            {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"x"} }, "pod updates may not change fields other than"},
		"container added":    {func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) }, "pod updates may not add or remove containers"},
		"gate added":         {func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "x"}} }, "only deletion is allowed, but found new scheduling gate 'x'"},
		"mirror annotation":  {func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }, "may not add mirror pod annotation"},
		"blank around image": {func(p *corev1.Pod) { p.Spec.Containers[0].Image = " x" }, "must not have leading or trailing whitespace"},
		"renamed":            {func(p *corev1.Pod) { p.Name = "other" }, "metadata.name: Invalid value: \"other\": field is immutable"},
	} {
		t.Run(name, func(t *testing.T) {
			old := stored[*corev1.Pod](t, plainPod)
			old.Status.Phase = corev1.PodRunning
			before := old.DeepCopy()
			p := old.DeepCopy()
			c.change(p)
			p.Status.Phase = corev1.PodFailed
			specChanged := !reflect.DeepEqual(p.Spec, old.Spec)
			got := write(t, "", p, old)
			if (c.refuse == "") != (got == "") || !strings.Contains(got, c.refuse) {
				t.Errorf("got %q, want %q", got, c.refuse)
			}
			if p.Status.Phase != corev1.PodRunning {
				t.Error("the main path changed the status")
			}
			if grown := p.Generation == old.Generation+1; grown != specChanged {
				t.Errorf("generation %d after %d, spec changed: %v", p.Generation, old.Generation, specChanged)
			}
			if !reflect.DeepEqual(before, old) {
				t.Error("the old object was changed")
			}
		})
	}
}

func TestGatedPodNarrows(t *testing.T) {
	old := stored[*corev1.Pod](t, `
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: default}
spec:
  schedulingGates: [{name: a}, {name: b}]
  nodeSelector: {disk: ssd}
  containers: [{name: main, image: demo}]
`)
	p := old.DeepCopy()
	p.Spec.SchedulingGates = p.Spec.SchedulingGates[:1]
	p.Spec.NodeSelector["zone"] = "a"
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "k", Operator: "Exists"}}}},
	}}}
	if got := write(t, "", p, old); got != "" {
		t.Errorf("narrowing: %s", got)
	}
	wider := p.DeepCopy()
	delete(wider.Spec.NodeSelector, "disk")
	if got := write(t, "", wider, p); !strings.Contains(got, "only additions to spec.nodeSelector are allowed") {
		t.Errorf("widening: %q", got)
	}
	wider = p.DeepCopy()
	wider.Spec.Affinity = nil
	if got := write(t, "", wider, p); !strings.Contains(got, "no additions/deletions to non-empty NodeSelectorTerms") {
		t.Errorf("widening: %q", got)
	}
}

func TestPodStatusPath(t *testing.T) {
	old := stored[*corev1.Pod](t, plainPod)
	p := old.DeepCopy()
	p.Spec.NodeName, p.Status.Phase = "other", corev1.PodRunning
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "X", Name: "x", UID: "x"}}
	p.Status.QOSClass = ""
	if got := write(t, "status", p, old); got != "" {
		t.Fatal(got)
	}
	if p.Spec.NodeName != "node-1" || p.OwnerReferences != nil || p.Status.Phase != corev1.PodRunning || p.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("status path: %+v", p)
	}
	p.Status.QOSClass = corev1.PodQOSGuaranteed
	if got := write(t, "status", p, old); !strings.Contains(got, "status.qosClass: Invalid value: \"Guaranteed\": field is immutable") {
		t.Error(got)
	}
}

func TestEphemeralContainersPath(t *testing.T) {
	old := stored[*corev1.Pod](t, plainPod)
	p := old.DeepCopy()
	p.ResourceVersion, p.Labels = "7", map[string]string{"a": "b"}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "demo"}}}
	LookupKind(p.GroupVersionKind()).Default(p)
	if got := write(t, "ephemeralcontainers", p, old); got != "" {
		t.Fatal(got)
	}
	if p.Labels != nil || p.ResourceVersion != "7" || p.Generation != old.Generation+1 {
		t.Errorf("kept %+v", p.ObjectMeta)
	}
	gone := p.DeepCopy()
	gone.Spec.EphemeralContainers = nil
	if got := write(t, "ephemeralcontainers", gone, p); !strings.Contains(got, `existing ephemeral containers "debug" may not be removed`) {
		t.Error(got)
	}
}

func TestResizePath(t *testing.T) {
	cpu := func(request, limit string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(request)},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(limit)},
		}
	}
	old := stored[*corev1.Pod](t, plainPod)
	old.Spec.Containers[0].Resources, old.Status.QOSClass = cpu("1", "2"), corev1.PodQOSBurstable
	for name, c := range map[string]struct {
		change  func(*corev1.Pod)
		refusal string
	}{
		"up and down":  {func(p *corev1.Pod) { p.Spec.Containers[0].Resources = cpu("500m", "4") }, ""},
		"labels stay":  {func(p *corev1.Pod) { p.Labels = map[string]string{"x": "y"} }, ""},
		"image stays":  {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" }, ""},
		"class":        {func(p *corev1.Pod) { p.Spec.Containers[0].Resources = cpu("0", "0") }, "Pod QOS Class may not change"},
		"limit gone":   {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = nil }, "resource limits cannot be removed"},
		"request gone": {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = nil }, "resource requests cannot be removed"},
		"too small":    {func(p *corev1.Pod) { p.Spec.Containers[0].Resources = cpu("3", "2") }, "must be less than or equal to cpu limit of 2"},
		"storage": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits[corev1.ResourceEphemeralStorage] = resource.MustParse("1Gi")
		}, "only cpu and memory resources are mutable"},
		"renamed": {func(p *corev1.Pod) { p.Spec.Containers[0].Name = "other" }, "containers may not be renamed or reordered on resize"},
		"policy": {func(p *corev1.Pod) {
			p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
		}, "only cpu and memory resources are mutable"},
		"the pod's own": {func(p *corev1.Pod) {
			r := cpu("2", "8")
			p.Spec.Resources = &r
		}, ""},
	} {
		p := old.DeepCopy()
		p.ResourceVersion = "7"
		c.change(p)
		got := write(t, "resize", p, old)
		if c.refusal == "" && got != "" || !strings.Contains(got, c.refusal) {
			t.Errorf("%s: %q, want %q", name, got, c.refusal)
		}
		if p.Spec.Containers[0].Image != old.Spec.Containers[0].Image && c.refusal == "" || name == "labels stay" && (p.Labels != nil || p.Generation != old.Generation) ||
			name == "up and down" && p.Generation != old.Generation+1 {
			t.Errorf("%s: stored %+v", name, p)
		}
	}
	static := old.DeepCopy()
	static.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	if got := write(t, "resize", static.DeepCopy(), static); !strings.Contains(got, "static pods cannot be resized") {
		t.Error(got)
	}
}

func TestGracefulPod(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		asked  *int64
		want   int64
	}{
		"own default": {want: 30},
		"asked":       {asked: ptr.To[int64](5), want: 5},
		"at once":     {asked: ptr.To[int64](0), want: 0},
		"negative":    {asked: ptr.To[int64](-1), want: 1},
		"unscheduled": {change: func(p *corev1.Pod) { p.Spec.NodeName = "" }, want: 0},
		"finished":    {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, asked: ptr.To[int64](9), want: 0},
	} {
		p := stored[*corev1.Pod](t, plainPod)
		if c.change != nil {
			c.change(p)
		}
		o := &metav1.DeleteOptions{GracePeriodSeconds: c.asked}
		if !LookupKind(p.GroupVersionKind()).Graceful(p, o) || *o.GracePeriodSeconds != c.want {
			t.Errorf("%s: %d, want %d", name, *o.GracePeriodSeconds, c.want)
		}
	}
}

const plainService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, selector: {app: web}, ports: [{name: a, port: 80}, {name: b, port: 81}]}
`

func TestServiceUpdates(t *testing.T) {
	old := stored[*corev1.Service](t, plainService)
	same := func(s *corev1.Service) bool { return reflect.DeepEqual(s.Spec, old.Spec) }
	for name, c := range map[string]struct {
		change func(*corev1.Service)
		refuse string
		check  func(*corev1.Service) bool
	}{
		"what is left out stays": {change: func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = "", nil, nil, nil
			s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 0, 0
		}, check: same},
		"another address": {change: func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.43.0.200", []string{"10.43.0.200"} },
			refuse: "spec.clusterIPs[0]: Invalid value: [\"10.43.0.200\"]: may not change once set"},
		"outside the network": {change: func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.9.0.1", []string{"10.9.0.1"} },
			refuse: "may not change once set"},
		"node port out of range": {change: func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 80 },
			refuse: "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"},
		"inside only": {change: func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP },
			check: func(s *corev1.Service) bool {
				return s.Spec.Ports[0].NodePort == 0 && s.Spec.ExternalTrafficPolicy == ""
			}},
		"an alias": {change: func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		},
			check: func(s *corev1.Service) bool { return s.Spec.ClusterIP == "" && s.Spec.IPFamilyPolicy == nil }},
		"one more port": {change: func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "c", Port: 82, Protocol: "TCP", TargetPort: intstr.FromInt32(82)})
		}, check: func(s *corev1.Service) bool {
			return s.Spec.Ports[2].NodePort == 30051 && s.Spec.Ports[0].NodePort == old.Spec.Ports[0].NodePort
		}},
	} {
		s := old.DeepCopy()
		c.change(s)
		got := write(t, "", s, old)
		if (c.refuse == "") != (got == "") || !strings.Contains(got, c.refuse) {
			t.Errorf("%s: got %q, want %q", name, got, c.refuse)
		}
		if c.check != nil && !c.check(s) {
			t.Errorf("%s: became %+v", name, s.Spec)
		}
	}
	claims := LookupKind(old.GroupVersionKind()).Claims(old)
	if want := []string{"clusterip/10.43.0.1", "nodeport/30002/TCP", "nodeport/30003/TCP"}; !reflect.DeepEqual(claims, want) {
		t.Errorf("claims %v, want %v", claims, want)
	}
}

// fullAllocator has nothing left.
type fullAllocator struct{ countingAllocator }

var errFull = errors.New("range is full")

func (*fullAllocator) Pick(string) (string, error) { return "", errFull }

func TestAllocatorFull(t *testing.T) {
	for _, text := range []string{plainService, "apiVersion: v1\nkind: Node\nmetadata: {name: n}"} {
		obj := decode(t, []byte(text))[0]
		k := LookupKind(obj.GetObjectKind().GroupVersionKind())
		if k.Default != nil {
			k.Default(obj)
		}
		if err := k.Allocate(obj, nil, &fullAllocator{}); !errors.Is(err, errFull) {
			t.Errorf("%s: %v", k.Kind, err)
		}
	}
}

func TestDeploymentUpdates(t *testing.T) {
	old := stored[*appsv1.Deployment](t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default, labels: {a: b}}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: demo}]}}}
`)
	d := old.DeepCopy()
	d.Annotations = map[string]string{"a": "b"}
	if got := write(t, "", d, old); got != "" || d.Generation != 2 {
		t.Errorf("annotated: %q, generation %d", got, d.Generation)
	}
	d = old.DeepCopy()
	d.Spec.Selector.MatchLabels["app"], d.Spec.Template.Labels["app"] = "x", "x"
	if got := write(t, "", d, old); !strings.Contains(got, "field is immutable") {
		t.Errorf("selector: %q", got)
	}
	d = old.DeepCopy()
	d.Labels, d.Spec.Replicas, d.Status.Replicas, d.Status.ReadyReplicas = nil, ptr.To[int32](9), 1, 2
	if got := write(t, "status", d, old); !strings.Contains(got, "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas") {
		t.Errorf("status: %q", got)
	}
	if d.Labels["a"] != "b" || *d.Spec.Replicas != 1 {
		t.Error("the status path changed labels or spec")
	}
}

func TestImmutableData(t *testing.T) {
	old := stored[*corev1.ConfigMap](t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: default}\ndata: {a: b}\nimmutable: true")
	c := old.DeepCopy()
	c.Data["a"], c.Immutable = "c", nil
	errs := LookupKind(c.GroupVersionKind()).Validate(context.Background(), c, old).ToAggregate()
	for _, want := range []string{"data: Forbidden: field is immutable when `immutable` is set", "immutable: Forbidden: field is immutable"} {
		if errs == nil || !strings.Contains(errs.Error(), want) {
			t.Errorf("%v lacks %q", errs, want)
		}
	}
}

// A kind that is served in two versions loses nothing on the way to the stored one and back.
func TestServedVersions(t *testing.T) {
	for _, obj := range examples(t) {
		k := LookupKind(obj.GetObjectKind().GroupVersionKind())
		if k.Stored == nil {
			continue
		}
		back := thereAndBack(t, k, obj)
		if again := thereAndBack(t, k, back); !reflect.DeepEqual(again, back) {
			t.Errorf("%+v became %+v", back, again)
		}
		if k.Kind == "Event" && !reflect.DeepEqual(obj, back) { // others get defaults of the stored version
			t.Errorf("%+v became %+v", obj, back)
		}
	}
}

func thereAndBack(t *testing.T, k *Kind, obj runtime.Object) runtime.Object {
	t.Helper()
	stored, err := k.ToStored(obj)
	if err != nil {
		t.Fatal(err)
	}
	if LookupKind(stored.GetObjectKind().GroupVersionKind()) != k.Stored {
		t.Errorf("stored as %v", stored.GetObjectKind().GroupVersionKind())
	}
	back, err := k.FromStored(stored)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.ToStored(stored); err == nil {
		t.Error("a stored object was taken for a served one")
	}
	return back
}
