package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

// amounts reads "cpu=1 memory=2Gi".
func amounts(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func (w *world) limit(name string, items ...corev1.LimitRangeItem) {
	w.reader.Put("limitranges", &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.LimitRangeSpec{Limits: items}})
}

func using(requests, limits string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: amounts(requests), Limits: amounts(limits)}
}

func TestContainersGetTheDefaultsOfTheirNamespace(t *testing.T) {
	w := newWorld()
	w.limit("a", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, DefaultRequest: amounts("cpu=100m memory=1Mi"), Default: amounts("cpu=1")})
	w.limit("b", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: amounts("cpu=2 memory=2Mi")})
	p := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = using("memory=3Mi", "")
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: using("cpu=1 memory=1Mi", "cpu=3 memory=3Mi")}}
	})
	if err := w.createPod(p); err != nil {
		t.Fatal(err)
	}
	c := p.Spec.Containers[0].Resources
	for _, tt := range []struct {
		what string
		q    *resource.Quantity
		want string
	}{
		{"cpu request", c.Requests.Cpu(), "100m"}, {"memory request, as asked for", c.Requests.Memory(), "3Mi"},
		{"cpu limit, of the first range", c.Limits.Cpu(), "1"}, {"memory limit, of the second", c.Limits.Memory(), "2Mi"},
		{"cpu limit of the init container", p.Spec.InitContainers[0].Resources.Limits.Cpu(), "3"},
	} {
		if tt.q.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, tt.q, tt.want)
		}
	}
	if got, want := p.Annotations["kubernetes.io/limit-ranger"], "LimitRanger plugin set: memory limit for container c"; got != want {
		t.Errorf("annotated %q, want %q (of the last range that set something)", got, want)
	}
}

func TestLimitsOfPodsAndContainers(t *testing.T) {
	container := func(i corev1.LimitRangeItem) corev1.LimitRangeItem { i.Type = corev1.LimitTypeContainer; return i }
	whole := func(i corev1.LimitRangeItem) corev1.LimitRangeItem { i.Type = corev1.LimitTypePod; return i }
	low, high := corev1.LimitRangeItem{Min: amounts("cpu=100m")}, corev1.LimitRangeItem{Max: amounts("cpu=1")}
	ratio := corev1.LimitRangeItem{MaxLimitRequestRatio: amounts("cpu=2")}
	for _, tt := range []struct {
		name   string
		limit  corev1.LimitRangeItem
		use    corev1.ResourceRequirements
		change func(*corev1.Pod)
		err    string // "" = admitted
	}{
		{"enough", container(low), using("cpu=100m", ""), nil, ""},
		{"no request", container(low), using("", ""), nil, "minimum cpu usage per Container is 100m.  No request is specified"},
		{"low request", container(low), using("cpu=99m", ""), nil, "minimum cpu usage per Container is 100m, but request is 99m"},
		{"low limit", container(low), using("cpu=100m", "cpu=50m"), nil, "minimum cpu usage per Container is 100m, but limit is 50m"},
		{"at the most", container(high), using("cpu=1", "cpu=1"), nil, ""},
		{"no limit", container(high), using("cpu=1", ""), nil, "maximum cpu usage per Container is 1.  No limit is specified"},
		{"high limit", container(high), using("cpu=1", "cpu=1100m"), nil, "maximum cpu usage per Container is 1, but limit is 1100m"},
		{"high request", container(high), using("cpu=2", "cpu=1"), nil, "maximum cpu usage per Container is 1, but request is 2"},
		{"ratio", container(ratio), using("cpu=1", "cpu=2"), nil, ""},
		{"high ratio", container(ratio), using("cpu=1", "cpu=2500m"), nil, "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000"},
		{"ratio without request", container(ratio), using("", "cpu=1"), nil, "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"},
		{"ratio without limit", container(ratio), using("cpu=1", ""), nil, "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0"},
		{"an init container", container(high), using("cpu=1", "cpu=1"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: using("cpu=2", "cpu=2")}}
		}, "maximum cpu usage per Container is 1, but limit is 2"},
		{"the whole pod", whole(high), using("cpu=500m", "cpu=500m"), func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Resources: using("cpu=500m", "cpu=501m")})
		}, "maximum cpu usage per Pod is 1, but limit is 1001m"},
		{"init containers run one by one", whole(high), using("cpu=500m", "cpu=500m"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: using("cpu=1", "cpu=1")}}
		}, ""},
		{"sidecars run beside", whole(high), using("cpu=500m", "cpu=500m"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: using("cpu=1", "cpu=1"), RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
		}, "maximum cpu usage per Pod is 1, but limit is 1500m"},
		{"limits of claims", corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: amounts("storage=1Gi")}, using("", ""), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.limit("l", tt.limit)
			p := pod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = tt.use })
			if tt.change != nil {
				tt.change(p)
			}
			err := w.createPod(p)
			want := `pods "p" is forbidden: ` + tt.err
			if tt.err == "" && err != nil || tt.err != "" && (!apierrors.IsForbidden(err) || err.Error() != want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

func TestLimitsOfClaims(t *testing.T) {
	w := newWorld()
	w.limit("l", corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: amounts("storage=2Gi"), Max: amounts("storage=3Gi")})
	for size, want := range map[string]string{
		"storage=2Gi": "", "storage=3Gi": "",
		"storage=1Gi": "minimum storage usage per PersistentVolumeClaim is 2Gi, but request is 1Gi",
		"storage=4Gi": "maximum storage usage per PersistentVolumeClaim is 3Gi, but request is 4Gi",
		"":            "[minimum storage usage per PersistentVolumeClaim is 2Gi.  No request is specified, maximum storage usage per PersistentVolumeClaim is 3Gi.  No request is specified]",
	} {
		c := claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources.Requests = amounts(size) })
		err := w.do(request{op: admission.Create, obj: c, resource: "persistentvolumeclaims", kind: "PersistentVolumeClaim", namespace: "ns", name: "c"})
		if want == "" && err != nil || want != "" && (!apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "is forbidden: "+want)) {
			t.Errorf("%q: got %v, want %s", size, err, want)
		}
	}
}

func claim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	change(c)
	return c
}
