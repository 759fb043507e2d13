package admission

import (
	"context"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"
)

// warnings is a warning.Recorder.
type warnings []string

func (w *warnings) AddWarning(_, text string) { *w = append(*w, text) }

// secure labels the namespace "ns" with pod security levels: "enforce=baseline".
func (w *world) secure(labels ...string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{}}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		ns.Labels["pod-security.kubernetes.io/"+key] = value
	}
	w.reader.Put("namespaces", ns)
	return ns
}

func privileged(p *corev1.Pod) {
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
}

// unprivileged fulfils every level.
func unprivileged(p *corev1.Pod) {
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
}

const (
	notBaseline   = `pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`
	notRestricted = `allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), ` +
		`unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), ` +
		`runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), ` +
		`seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")`
)

func TestPodsAreHeldToTheirNamespacesLevel(t *testing.T) {
	for _, tt := range []struct {
		name   string
		labels []string
		pod    func(*corev1.Pod)
		err    string
		warn   []string
	}{
		{"no labels", nil, privileged, "", nil},
		{"enforce privileged", []string{"enforce=privileged"}, privileged, "", nil},
		{"enforce baseline", []string{"enforce=baseline"}, privileged, notBaseline, nil},
		{"enforce baseline, fulfilled", []string{"enforce=baseline"}, func(*corev1.Pod) {}, "", nil},
		{"enforce restricted", []string{"enforce=restricted"}, func(*corev1.Pod) {}, `pods "p" is forbidden: violates PodSecurity "restricted:latest": ` + notRestricted, nil},
		{"enforce restricted, fulfilled", []string{"enforce=restricted"}, unprivileged, "", nil},
		{"enforce an older version", []string{"enforce=restricted", "enforce-version=v1.18"}, func(p *corev1.Pod) {
			unprivileged(p)
			p.Spec.Containers[0].SecurityContext.Capabilities = nil // asked for since 1.22
		}, "", nil},
		{"warn", []string{"warn=restricted"}, func(*corev1.Pod) {}, "", []string{`would violate PodSecurity "restricted:latest": ` + notRestricted}},
		{"a level that does not exist is the strictest", []string{"enforce=strict"}, privileged, `violates PodSecurity "restricted:latest"`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.secure(tt.labels...)
			var said warnings
			w.ctx = warning.WithWarningRecorder(context.Background(), &said)
			err := w.createPod(pod(tt.pod))
			if tt.err == "" && err != nil || tt.err != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %v, want %s", err, tt.err)
			}
			if !slices.Equal(said, tt.warn) {
				t.Errorf("warned of %q, want %q", said, tt.warn)
			}
		})
	}
}

func TestTemplatesAreWarnedOf(t *testing.T) {
	w := newWorld()
	w.secure("enforce=baseline", "warn=baseline")
	var said warnings
	w.ctx = warning.WithWarningRecorder(context.Background(), &said)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}}
	d.Spec.Template.Spec = pod(privileged).Spec
	if err := w.do(request{op: admission.Create, obj: d, group: "apps", resource: "deployments", kind: "Deployment", namespace: "ns", name: "d"}); err != nil {
		t.Error(err)
	}
	want := `would violate PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`
	if !slices.Equal(said, []string{want}) {
		t.Errorf("warned of %q, want %q", said, want)
	}
}

func TestOnlyChangesThatMatterAreChecked(t *testing.T) {
	w := newWorld()
	w.secure("enforce=baseline")
	old, updated := pod(privileged), pod(privileged)
	update := request{op: admission.Update, obj: updated, old: old, resource: "pods", kind: "Pod", namespace: "ns", name: "p"}
	updated.Labels = map[string]string{"a": "b"}
	if err := w.do(update); err != nil {
		t.Errorf("another label: %v", err)
	}
	updated.Spec.Containers[0].Image = "other"
	if err := w.do(update); !apierrors.IsForbidden(err) {
		t.Errorf("another image: %v", err)
	}
	debug := pod(privileged)
	debug.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d"}}}
	update.obj, update.sub = debug, "ephemeralcontainers"
	if err := w.do(update); !apierrors.IsForbidden(err) {
		t.Errorf("an ephemeral container: %v", err)
	}
}

func TestNamespaceLabelsAreCheckedAgainstWhatRuns(t *testing.T) {
	w := newWorld()
	for _, name := range []string{"a", "b", "c"} {
		w.reader.Put("pods", pod(privileged, func(p *corev1.Pod) { p.Name = name }))
	}
	w.reader.Put("pods", pod(unprivileged))
	var said warnings
	w.ctx = warning.WithWarningRecorder(context.Background(), &said)
	old := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
	update := request{op: admission.Update, obj: w.secure("enforce=baseline"), old: old, resource: "namespaces", kind: "Namespace", namespace: "ns", name: "ns"}
	if err := w.do(update); err != nil {
		t.Fatal(err)
	}
	want := []string{`existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest"`, "a (and 2 other pods): privileged"}
	if !slices.Equal(said, want) {
		t.Errorf("warned of %q, want %q", said, want)
	}
	update.obj = w.secure("enforce=strict")
	err := w.do(update)
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted`) {
		t.Errorf("a level that does not exist: %v", err)
	}
}
