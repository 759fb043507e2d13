package api_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/api"
	"mgr/api/apitest"
)

func pod(name string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}}
	if len(containers) == 0 {
		containers = []string{"main"}
	}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Image: "image"})
	}
	return p
}

func TestStatusIsAPathOfItsOwn(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	pods := s.Client.CoreV1().Pods("default")
	p, err := pods.Create(ctx, pod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.PodIP, p.Status.Phase = "10.42.0.5", corev1.PodRunning
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.42.0.5"}}
	p.Labels["by"] = "update"
	main, err := pods.Update(ctx, p, metav1.UpdateOptions{})
	if err != nil || main.Status.PodIP != "" || main.Labels["by"] != "update" {
		t.Fatalf("update: %v, %+v", err, main)
	}
	p.ResourceVersion = main.ResourceVersion
	p.Spec.NodeName = "nowhere"
	status, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	if err != nil || status.Status.PodIP != "10.42.0.5" || status.Spec.NodeName != "" {
		t.Fatalf("update of status: %v, %+v", err, status)
	}
	got, err := pods.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{"status":{"message":"hello"}}`), metav1.PatchOptions{}, "status")
	if err != nil || got.Status.Message != "hello" || got.Status.PodIP != "10.42.0.5" {
		t.Errorf("patch of status: %v, %+v", err, got)
	}
}

func TestBinding(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	pods := s.Client.CoreV1().Pods("default")
	for _, name := range []string{"a", "b", "c"} {
		if _, err := pods.Create(ctx, pod(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(name, node string) error {
		return pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
	}
	if err := bind("a", "n1"); err != nil {
		t.Fatalf("bind: %v", err)
	}
	if err := bind("a", "n2"); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `pod a is already assigned to node "n1"`) {
		t.Errorf("bind again: %v", err)
	}
	if err := bind("none", "n1"); !apierrors.IsNotFound(err) {
		t.Errorf("bind of nothing: %v", err)
	}
	got, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.Spec.NodeName != "n1" || len(got.Status.Conditions) == 0 || got.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("bound pod: %v, %+v", err, got)
	}
	before := s.Quorum.FSM().State().Index()
	errs := s.Bind(ctx, 1, []api.Binding{{Namespace: "default", Name: "a", Node: "n3"}, {Namespace: "default", Name: "b", Node: "n3"}, {Namespace: "default", Name: "c", Node: "n3"}})
	if !apierrors.IsConflict(errs[0]) || errs[1] != nil || errs[2] != nil {
		t.Errorf("bulk: %v", errs)
	}
	if n := s.Quorum.FSM().State().Index() - before; n != 1 {
		t.Errorf("two pods were bound in %d log entries", n)
	}
	if errs := s.Bind(ctx, 7, []api.Binding{{Namespace: "default", Name: "none", Node: "n"}}); !apierrors.IsNotFound(errs[0]) {
		t.Errorf("bulk, no pod: %v", errs)
	}
}

func TestScale(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	deployments := s.Client.AppsV1().Deployments("default")
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("x").Spec},
	}}
	if _, err := deployments.Create(ctx, d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 1 || scale.Status.Selector != "app=web" {
		t.Fatalf("get: %v, %+v", err, scale)
	}
	scale.Spec.Replicas = 3
	if scale, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 3 {
		t.Fatalf("update: %v, %+v", err, scale)
	}
	_, err = deployments.UpdateScale(ctx, "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv1.ScaleSpec{Replicas: -1}}, metav1.UpdateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("negative: %v", err)
	}
	got, err := deployments.Get(ctx, "web", metav1.GetOptions{})
	if err != nil || *got.Spec.Replicas != 3 || got.Generation != 2 {
		t.Errorf("deployment: %v, replicas %d, generation %d", err, *got.Spec.Replicas, got.Generation)
	}
}

// agent stands in for a node's agent: it tells what it was asked.
type agent struct{ http.Handler }

func (agent) Await(context.Context, string) {}

func (a agent) RoundTripper(node string) (http.RoundTripper, error) {
	if node != "n1" {
		return nil, fmt.Errorf("node %s: not connected", node)
	}
	srv := httptest.NewServer(a.Handler)
	return &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
	}}, nil
}

func TestStreamsAndProxies(t *testing.T) {
	echo := agent{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/broken") {
			http.Error(w, "container is on fire", http.StatusConflict)
			return
		}
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.RequestURI())
		if by := r.Header.Get("X-Mgr-Scheme"); by != "" {
			fmt.Fprint(w, " by "+by)
		}
	})}
	s := apitest.New(t, func(c *api.Config) { c.Dialer = echo })
	ctx := t.Context()
	pods := s.Client.CoreV1().Pods("default")
	for _, p := range []struct {
		pod  *corev1.Pod
		node string
	}{{pod("one"), "n1"}, {pod("two", "a", "b"), "n1"}, {pod("lost"), "n2"}, {pod("pending"), ""}, {pod("bad", "broken"), "n1"}} {
		made, err := pods.Create(ctx, p.pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if p.node == "" {
			continue
		}
		if errs := s.Bind(ctx, 0, []api.Binding{{Namespace: "default", Name: made.Name, Node: p.node}}); errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
	if _, err := pods.Patch(ctx, "one", types.StrategicMergePatchType, []byte(`{"status":{"podIP":"10.42.0.9","podIPs":[{"ip":"10.42.0.9"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	const at = "/api/v1/namespaces/default/pods/"
	for _, c := range []struct{ method, path, want string }{
		{"GET", at + "one/log?follow=true&tailLines=5", "GET /containerLogs/default/one/main?follow=true&tailLines=5"},
		{"GET", at + "two/log?container=b", "GET /containerLogs/default/two/b"},
		{"GET", at + "two/log", "a container name must be specified for pod two, choose one of: [a b]"},
		{"GET", at + "two/log?container=c", "container c is not valid for pod two"},
		{"GET", at + "pending/log", ""},
		{"GET", at + "lost/log", "error dialing backend: node n2: not connected"},
		{"GET", at + "bad/log", `"message":"container is on fire"`},
		{"GET", at + "one/log?tailLines=-1", "must be greater than or equal to 0"},
		{"POST", at + "one/exec?command=ls&command=-l&stdout=true", "POST /exec/default/one/main?command=ls&command=-l&output=1"},
		{"POST", at + "one/exec", "you must specify at least one command for the container"},
		{"POST", at + "pending/exec?command=ls", "pod pending does not have a host assigned"},
		{"POST", at + "one/attach?stdin=true&tty=true", "POST /attach/default/one/main?input=1&tty=1"},
		{"POST", at + "one/portforward?ports=80", "POST /portForward/default/one?port=80"},
		{"GET", at + "one/proxy/a%2Fb/c?d=e", "GET /podProxy/10.42.0.9:80/a%2Fb/c?d=e"},
		{"DELETE", at + "http:one:8080/proxy/", "DELETE /podProxy/10.42.0.9:8080/"},
		{"GET", at + "https:one:8443/proxy/", "GET /podProxy/10.42.0.9:8443/ by https"},
		{"GET", at + "pending/proxy/", "pod pending has no address yet"},
		{"GET", at + "none/proxy/", `pods \"none\" not found`},
		{"DELETE", at + "one/exec", `"code":405`},
	} {
		if got := body(t, s, c.method, c.path, ""); !strings.Contains(got, c.want) || (c.want == "" && got != "") {
			t.Errorf("%s %s: %s\nwant %s", c.method, c.path, got, c.want)
		}
	}
}

// body sends a request as a client without codecs would, and returns the answer.
func body(t *testing.T, s *apitest.Server, method, path, send string, header ...string) string {
	t.Helper()
	resp := request(t.Context(), t, s, method, path, send, header...)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func request(ctx context.Context, t *testing.T, s *apitest.Server, method, path, send string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, "http://in-process"+path, strings.NewReader(send))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Config.Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// TestOlderBinding: a Binding object posted by itself does what the subresource does.
func TestOlderBinding(t *testing.T) {
	s := apitest.New(t)
	pod, err := s.Client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "i"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bind := func(name string) error {
		return s.Client.CoreV1().RESTClient().Post().Namespace("default").Resource("bindings").Body(&corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}).Do(t.Context()).Error()
	}
	if err := bind(pod.Name); err != nil {
		t.Fatal(err)
	}
	if pod, err = s.Client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{}); err != nil || pod.Spec.NodeName != "n" {
		t.Errorf("bound to %q: %v", pod.Spec.NodeName, err)
	}
	if err := bind("p"); !apierrors.IsConflict(err) {
		t.Errorf("bound again: %v", err)
	}
	if err := bind("nobody"); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that is not there: %v", err)
	}
}
