package security

import (
	"context"
	"net/http"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/pki"
)

func TestNodeReadsOnlyWhatItsPodsReference(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	one, two := c.registered("n1"), c.registered("n2")
	if _, err := one.client.CoreV1().Secrets("ns").Get(ctx, "used", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("before the pod is there: %v", err)
	}
	c.pod("p", "n1")
	if s, err := one.client.CoreV1().Secrets("ns").Get(ctx, "used", metav1.GetOptions{}); err != nil || string(s.Data["k"]) != "CANARY" {
		t.Errorf("the secret of its pod: %v", err)
	}
	forbidden := map[string]error{}
	note := func(what string, err error) { forbidden[what] = err }
	_, err := one.client.CoreV1().Secrets("ns").Get(ctx, "unused", metav1.GetOptions{})
	note("an unrelated secret", err)
	_, err = one.client.CoreV1().Secrets("elsewhere").Get(ctx, "used", metav1.GetOptions{})
	note("a secret of that name elsewhere", err)
	_, err = one.client.CoreV1().Secrets("ns").List(ctx, metav1.ListOptions{})
	note("all secrets", err)
	_, err = one.client.CoreV1().Secrets("ns").Watch(ctx, metav1.ListOptions{})
	note("watching all secrets", err)
	_, err = two.client.CoreV1().Secrets("ns").Get(ctx, "used", metav1.GetOptions{})
	note("another node's secret", err)
	_, err = two.client.CoreV1().Pods("ns").Get(ctx, "p", metav1.GetOptions{})
	note("another node's pod", err)
	_, err = two.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	note("all pods", err)
	_, err = two.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	note("another node's pods", err)
	_, err = two.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!=n2"})
	note("all others' pods", err)
	_, err = one.client.CoreV1().Secrets("kube-system").Get(ctx, "mgr-node-key.n2", metav1.GetOptions{})
	note("another node's binding", err)
	for what, err := range forbidden {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := one.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}); err != nil || len(list.Items) != 1 {
		t.Errorf("its own pods: %v", err)
	}
}

func TestNodeWritesOnlyItsOwn(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	one := c.registered("n1")
	c.registered("n2")
	c.pod("other", "n2")
	patch := func(name, body string, sub ...string) error {
		_, err := one.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, sub...)
		return err
	}
	for what, err := range map[string]error{
		"another node":           patch("n2", `{"metadata":{"labels":{"a":"b"}}}`),
		"another node's status":  patch("n2", `{"status":{"phase":"x"}}`, "status"),
		"owner references":       patch("n1", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`),
		"a restricted label":     patch("n1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}`),
		"its taints":             patch("n1", `{"spec":{"taints":[]}}`),
		"another node's pod":     one.client.CoreV1().Pods("ns").Delete(ctx, "other", metav1.DeleteOptions{}),
		"deleting its node":      one.client.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}),
		"deleting a secret":      one.client.CoreV1().Secrets("ns").Delete(ctx, "used", metav1.DeleteOptions{}),
		"deleting all pods":      one.client.CoreV1().Pods("ns").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
		"a status of another's":  patchPod(ctx, one, "other"),
		"a token of any account": token(ctx, one, nil),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := patch("n1", `{"metadata":{"labels":{"mine":"x"}}}`); err != nil {
		t.Errorf("a label of its own: %v", err)
	}
	mine := c.pod("mine", "n1")
	if err := patchPod(ctx, one, "mine"); err != nil {
		t.Errorf("the status of its pod: %v", err)
	}
	ref := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "mine", UID: mine.UID}
	if err := token(ctx, one, ref); err != nil {
		t.Errorf("a token for its pod: %v", err)
	}
	ref.Name, ref.UID = "other", "x"
	if err := token(ctx, one, ref); !apierrors.IsForbidden(err) {
		t.Errorf("a token for another's pod: %v", err)
	}
}

func patchPod(ctx context.Context, a *agent, name string) error {
	_, err := a.client.CoreV1().Pods("ns").Patch(ctx, name, types.MergePatchType, []byte(`{"status":{"message":"x"}}`), metav1.PatchOptions{}, "status")
	return err
}

func token(ctx context.Context, a *agent, ref *authenticationv1.BoundObjectReference) error {
	_, err := a.client.CoreV1().ServiceAccounts("ns").CreateToken(ctx, "default",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref}}, metav1.CreateOptions{})
	return err
}

func TestTokenIsDeadWithItsPod(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	pod := c.pod("p", "")
	issue := func(audience ...string) string {
		t.Helper()
		r, err := c.admin.CoreV1().ServiceAccounts("ns").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: audience, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return "Authorization: Bearer " + r.Status.Token
	}
	bearer, vault := issue(), issue("vault")
	use := func(bearer string) int {
		code, _ := c.send(nil, http.MethodGet, "/api", "", bearer)
		return code
	}
	if got := use(bearer); got != http.StatusOK {
		t.Fatalf("while the pod lives: %d", got)
	}
	if got := use(vault); got != http.StatusUnauthorized {
		t.Errorf("a token for vault at the API: %d", got)
	}
	if code, _ := c.send(nil, http.MethodGet, "/api/v1/namespaces/ns/secrets/used", "", bearer); code != http.StatusForbidden {
		t.Errorf("a pod reads a secret: %d", code)
	}
	now := int64(0)
	if err := c.admin.CoreV1().Pods("ns").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	if got := use(bearer); got != http.StatusUnauthorized {
		t.Errorf("after the pod was deleted: %d", got)
	}
}

func TestWebSocketGetOnExecNeedsCreate(t *testing.T) {
	for _, sub := range []string{"exec", "attach", "portforward"} {
		for verb, forbidden := range map[string]bool{"get": true, "create": false} {
			c := newCluster(t)
			c.allow("jane", "ns", rule(verb, "pods/"+sub))
			c.pod("p", "n1")
			jane := c.certificate(pki.Identity{Name: "jane"})
			code, body := c.send(jane, http.MethodGet, "/api/v1/namespaces/ns/pods/p/"+sub+"?command=id&stdout=true&ports=80", "",
				"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
				"Sec-WebSocket-Protocol: v5.channel.k8s.io")
			if (code == http.StatusForbidden) != forbidden {
				t.Errorf("%s with the right to %s it: %d %.200s", sub, verb, code, body)
			}
		}
	}
}
