package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/api/auth/authtest"
)

// world is a chain over a little state.
type world struct {
	chain      admission.Interface
	reader     *authtest.Reader
	registered []string
	ctx        context.Context
}

func newWorld(change ...func(*Config)) *world {
	w := &world{reader: &authtest.Reader{}, ctx: context.Background()}
	past := metav1.NewTime(time.Unix(1, 0))
	for _, ns := range []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		{ObjectMeta: metav1.ObjectMeta{Name: "ending", DeletionTimestamp: &past}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}},
		{ObjectMeta: metav1.ObjectMeta{Name: "kube-node-lease"}},
	} {
		w.reader.Put("namespaces", ns)
	}
	w.reader.Put("serviceaccounts", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}})
	cfg := Config{Reader: w.reader, NodeRegistered: func(_ context.Context, node string, uid types.UID) error {
		w.registered = append(w.registered, node+"="+string(uid))
		return nil
	}}
	for _, f := range change {
		f(&cfg)
	}
	w.chain = New(cfg)
	return w
}

// request is one write; the zero user is an administrator.
type request struct {
	op        admission.Operation
	obj, old  runtime.Object
	resource  string
	group     string
	sub       string
	namespace string
	name      string
	kind      string
	user      user.Info
	dryRun    bool
}

// do runs the request through both halves of the chain.
func (w *world) do(r request) error {
	if r.user == nil {
		r.user = &user.DefaultInfo{Name: "mgr-admin", Groups: []string{"system:masters"}}
	}
	gvk := schema.GroupVersionKind{Group: r.group, Version: "v1", Kind: r.kind}
	a := admission.NewAttributesRecord(r.obj, r.old, gvk, r.namespace, r.name,
		schema.GroupVersionResource{Group: r.group, Version: "v1", Resource: r.resource}, r.sub, r.op, nil, r.dryRun, r.user)
	if !w.chain.Handles(r.op) {
		return nil
	}
	if err := w.chain.(admission.MutationInterface).Admit(w.ctx, a, nil); err != nil {
		return err
	}
	return w.chain.(admission.ValidationInterface).Validate(w.ctx, a, nil)
}

func (w *world) createPod(p *corev1.Pod) error {
	return w.do(request{op: admission.Create, obj: p, resource: "pods", kind: "Pod", namespace: p.Namespace, name: p.Name})
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestNamespaceMustExistAndStay(t *testing.T) {
	w := newWorld()
	config := func(op admission.Operation, namespace string) request {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "c"}}
		return request{op: op, obj: o, resource: "configmaps", kind: "ConfigMap", namespace: namespace, name: "c"}
	}
	namespace := func(op admission.Operation, name string) request {
		return request{op: op, obj: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, resource: "namespaces", kind: "Namespace", name: name, namespace: name}
	}
	for _, tt := range []struct {
		r    request
		is   func(error) bool
		want string
	}{
		{config(admission.Create, "ns"), nil, ""},
		{config(admission.Create, "ghost"), apierrors.IsNotFound, `namespaces "ghost" not found`},
		{config(admission.Update, "ghost"), apierrors.IsNotFound, `namespaces "ghost" not found`},
		{config(admission.Delete, "ghost"), nil, ""},
		{config(admission.Create, "ending"), apierrors.IsForbidden, "unable to create new content in namespace ending because it is being terminated"},
		{config(admission.Update, "ending"), nil, ""},
		{namespace(admission.Create, "new"), nil, ""},
		{namespace(admission.Delete, "ns"), nil, ""},
		{namespace(admission.Delete, "default"), apierrors.IsForbidden, "this namespace may not be deleted"},
		{namespace(admission.Delete, "kube-system"), apierrors.IsForbidden, "this namespace may not be deleted"},
		{namespace(admission.Delete, "kube-public"), apierrors.IsForbidden, "this namespace may not be deleted"},
		{request{op: admission.Create, obj: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, resource: "nodes", kind: "Node"}, nil, ""},
	} {
		err := w.do(tt.r)
		if tt.is == nil && err != nil || tt.is != nil && (!tt.is(err) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s %s in %q: %v, want %q", tt.r.op, tt.r.resource, tt.r.namespace, err, tt.want)
		}
	}
	if err := w.do(config(admission.Create, "ending")); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("%v lacks the cause NamespaceTerminating", err)
	}
}

func TestNamespaceIsLookedForAgainAfterCatchingUp(t *testing.T) {
	var w *world
	w = newWorld(func(c *Config) {
		c.CatchUp = func(context.Context) error {
			w.reader.Put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}})
			return nil
		}
	})
	o := &corev1.ConfigMap{}
	if err := w.do(request{op: admission.Create, obj: o, resource: "configmaps", kind: "ConfigMap", namespace: "new"}); err != nil {
		t.Error(err)
	}
}

func TestPodGetsServiceAccountAndToken(t *testing.T) {
	w := newWorld()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "builder"},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}}
	w.reader.Put("serviceaccounts", sa)
	p := pod(func(p *corev1.Pod) {
		p.Spec.ServiceAccountName = "builder"
		p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "own",
			VolumeMounts: []corev1.VolumeMount{{Name: "x", MountPath: tokenMountPath}}})
	})
	if err := w.createPod(p); err != nil {
		t.Fatal(err)
	}
	if p.Spec.DeprecatedServiceAccount != "builder" || len(p.Spec.ImagePullSecrets) != 1 || len(p.Spec.Volumes) != 1 {
		t.Fatalf("the pod became %+v", p.Spec)
	}
	v := p.Spec.Volumes[0]
	if !strings.HasPrefix(v.Name, "kube-api-access-") || len(v.Name) != len("kube-api-access-")+5 {
		t.Errorf("the volume is named %q", v.Name)
	}
	got, err := json.Marshal(v.Projected)
	want := `{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},` +
		`{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},` +
		`{"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}],"defaultMode":420}`
	if err != nil || string(got) != want {
		t.Errorf("the volume is\n%s, want\n%s", got, want)
	}
	mount := corev1.VolumeMount{Name: v.Name, ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}
	for _, c := range []corev1.Container{p.Spec.InitContainers[0], p.Spec.Containers[0]} {
		if len(c.VolumeMounts) != 1 || c.VolumeMounts[0].Name != mount.Name || !c.VolumeMounts[0].ReadOnly || c.VolumeMounts[0].MountPath != mount.MountPath {
			t.Errorf("container %s mounts %+v", c.Name, c.VolumeMounts)
		}
	}
	if m := p.Spec.Containers[1].VolumeMounts; len(m) != 1 || m[0].Name != "x" {
		t.Errorf("the container with a mount of its own has %+v", m)
	}
	if len(sa.ImagePullSecrets) != 1 || &sa.ImagePullSecrets[0] == &p.Spec.ImagePullSecrets[0] {
		t.Error("the pod shares memory with the stored service account")
	}
}

func TestTokenIsNotMountedWhereDeclined(t *testing.T) {
	no, yes := false, true
	for _, tt := range []struct {
		account, pod *bool
		want         bool
	}{{nil, nil, true}, {&no, nil, false}, {nil, &no, false}, {&no, &yes, true}, {&yes, &no, false}} {
		w := newWorld()
		w.reader.Put("serviceaccounts", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}, AutomountServiceAccountToken: tt.account})
		p := pod(func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = tt.pod })
		if err := w.createPod(p); err != nil || (len(p.Spec.Volumes) == 1) != tt.want {
			t.Errorf("account %v, pod %v: volumes %v, %v", tt.account, tt.pod, p.Spec.Volumes, err)
		}
		if p.Spec.ServiceAccountName != "default" {
			t.Errorf("the service account is %q", p.Spec.ServiceAccountName)
		}
	}
}

func TestPodWithoutItsServiceAccountIsRefused(t *testing.T) {
	w := newWorld()
	err := w.createPod(pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "ghost" }))
	want := `pods "p" is forbidden: error looking up service account ns/ghost: serviceaccount "ghost" not found`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDefaultServiceAccountIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.reader.Delete("serviceaccounts", "ns", "default")
		began := time.Now()
		if err := w.createPod(pod()); !apierrors.IsForbidden(err) || time.Since(began) < time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		looks := 0
		w.chain = New(Config{Reader: lateAccount{w.reader, &looks}})
		if err := w.createPod(pod()); err != nil || looks < 3 {
			t.Errorf("after %d looks: %v", looks, err)
		}
	})
}

// lateAccount has the default service account from the third look on.
type lateAccount struct {
	*authtest.Reader
	looks *int
}

func (l lateAccount) Get(ctx context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	if gr.Resource != "serviceaccounts" {
		return l.Reader.Get(ctx, gr, namespace, name)
	}
	*l.looks++
	if *l.looks < 3 {
		return nil, apierrors.NewNotFound(gr, name)
	}
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, nil
}

func TestLostPodsComeBackFast(t *testing.T) {
	w := newWorld()
	p := pod(func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists}}
	})
	if err := w.createPod(p); err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.Tolerations) != 2 || p.Spec.Tolerations[0].TolerationSeconds != nil {
		t.Fatalf("tolerations are %+v", p.Spec.Tolerations)
	}
	added := p.Spec.Tolerations[1]
	if added.Key != corev1.TaintNodeUnreachable || added.Effect != corev1.TaintEffectNoExecute || *added.TolerationSeconds != 5 {
		t.Errorf("added %+v", added)
	}
	w = newWorld(func(c *Config) { c.TolerationSeconds = 300 })
	p = pod()
	if err := w.createPod(p); err != nil || len(p.Spec.Tolerations) != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("with 300 s: %+v, %v", p.Spec.Tolerations, err)
	}
}

func TestNewNodesTakeNoPodsUntilReady(t *testing.T) {
	w := newWorld()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	for range 2 { // the second time it has the taint
		if err := w.do(request{op: admission.Create, obj: n, resource: "nodes", kind: "Node"}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(n.Spec.Taints, []corev1.Taint{{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule}}) {
		t.Errorf("taints are %+v", n.Spec.Taints)
	}
}

func TestPodsOnANodeKnowItsZone(t *testing.T) {
	w := newWorld()
	w.reader.Put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{
		corev1.LabelTopologyZone: "z", corev1.LabelHostname: "h"}}})
	for node, want := range map[string]string{"n1": "map[a:b topology.kubernetes.io/zone:z]", "ghost": "map[a:b topology.kubernetes.io/zone:mine]"} {
		p := pod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Labels = node, map[string]string{"a": "b", corev1.LabelTopologyZone: "mine"}
		})
		if err := w.createPod(p); err != nil || fmt.Sprint(p.Labels) != want {
			t.Errorf("on %s: %v, %v, want %s", node, p.Labels, err, want)
		}
	}
}

func TestWrongObjectIsABadRequest(t *testing.T) {
	w := newWorld()
	for _, r := range []request{
		{op: admission.Create, obj: &corev1.Node{}, resource: "pods", kind: "Pod", namespace: "ns"},
		{op: admission.Create, obj: &corev1.Pod{}, resource: "nodes", kind: "Node"},
		{op: admission.Create, obj: nil, resource: "pods", kind: "Pod", namespace: "ns"},
	} {
		if err := w.do(r); !apierrors.IsBadRequest(err) {
			t.Errorf("%s with a %T: %v", r.resource, r.obj, err)
		}
	}
}

var errWrite = errors.New("no quorum")
