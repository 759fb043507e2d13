package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"

	"mgr/api"
	"mgr/api/apitest"
)

func history(t *testing.T, s *apitest.Server, path string) api.History {
	t.Helper()
	a := ask(t, s, path, jsonType)
	var h api.History
	if err := json.Unmarshal([]byte(a.body), &h); err != nil || a.code != http.StatusOK || h.Kind != "History" {
		t.Fatalf("%s: %d %v\n%s", path, a.code, err, a.body)
	}
	return h
}

// told is a history in short: what happened to whom by whom and which data it left.
func told(h api.History) string {
	var lines []string
	data := func(b json.RawMessage) string {
		var m corev1.ConfigMap
		if json.Unmarshal(b, &m) != nil {
			return ""
		}
		return m.Data["k"]
	}
	for _, c := range h.Changes {
		line := fmt.Sprintf("%s %s %s %s", c.Type, c.Name, c.Actor, data(c.Object))
		if c.Before != nil {
			line += " was " + data(c.Before)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

// TestHistory: each change with who, what and when, also across deletion and a new object of the same name; since and limit leave out
// the older ones and count them; lists tell of all selected objects, or of what was deleted last.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apitest.New(t)
		bob, err := kubernetes.NewForConfig(s.Loopback(t.Context(), "bob", []string{"system:masters"}, 0))
		if err != nil {
			t.Fatal(err)
		}
		ctx, began := t.Context(), time.Now()
		alices, bobs := s.Client.CoreV1().ConfigMaps("default"), bob.CoreV1().ConfigMaps("default")
		labelled := configMap("other", map[string]string{"k": "x"})
		labelled.Labels = map[string]string{"kind": "other"}
		for i, step := range []func() error{
			func() error {
				_, err := alices.Create(ctx, configMap("a", map[string]string{"k": "1"}), metav1.CreateOptions{})
				return err
			},
			func() error { _, err := bobs.Create(ctx, labelled, metav1.CreateOptions{}); return err },
			func() error {
				_, err := bobs.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"k":"2"}}`), metav1.PatchOptions{})
				return err
			},
			func() error { return alices.Delete(ctx, "a", metav1.DeleteOptions{}) },
			func() error { return bobs.Delete(ctx, "other", metav1.DeleteOptions{}) },
			func() error {
				_, err := bobs.Create(ctx, configMap("a", map[string]string{"k": "3"}), metav1.CreateOptions{})
				return err
			},
		} {
			if err := step(); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			time.Sleep(time.Minute)
		}
		const maps = "/api/v1/namespaces/default/configmaps"
		for path, want := range map[string]string{
			maps + "/a?history=changes":                               "ADDED a mgr-admin 1; MODIFIED a bob 2; DELETED a mgr-admin 2; ADDED a bob 3",
			maps + "/a?history=changes&limit=3":                       "MODIFIED a bob 2 was 1; DELETED a mgr-admin 2; ADDED a bob 3",
			maps + "/a?history=changes&since=2m30s":                   "ADDED a bob 3",
			maps + "?history=changes&labelSelector=kind%3Dother":      "ADDED other bob x; DELETED other bob x",
			maps + "?history=deleted":                                 "DELETED other bob x",
			"/api/v1/configmaps?history=deleted":                      "DELETED other bob x",
			maps + "?history=deleted&fieldSelector=metadata.name%3Da": "",
			"/api/v1/namespaces/none/configmaps?history=changes":      "",
		} {
			if got := told(history(t, s, path)); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		h := history(t, s, maps+"/a?history=changes&limit=2")
		var now corev1.ConfigMap
		if err := json.Unmarshal(h.Object, &now); err != nil || now.Data["k"] != "3" {
			t.Errorf("the present object: %v, %s", err, h.Object)
		}
		if h.Left != 2 || h.Resource != "configmaps" || h.Namespace != "default" || h.Name != "a" || h.Revision != s.Quorum.FSM().State().Revision() {
			t.Errorf("%+v", h)
		}
		deleted := h.Changes[0]
		if deleted.Cause != "delete /api/v1/namespaces/default/configmaps/a" || deleted.Time == nil || !deleted.Time.Equal(began.Add(3*time.Minute)) {
			t.Errorf("cause %q, time %v", deleted.Cause, deleted.Time)
		}
	})
}

// TestHistoryOfConverted: a resource whose objects are stored in another version tells its history in its own.
func TestHistoryOfConverted(t *testing.T) {
	s := apitest.New(t)
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Namespace: "default"}, Message: "text"}
	if _, err := s.Client.CoreV1().Events("default").Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h := history(t, s, "/apis/events.k8s.io/v1/namespaces/default/events/e?history=changes")
	if len(h.Changes) != 1 || !strings.Contains(string(h.Changes[0].Object), `"apiVersion":"events.k8s.io/v1"`) || !strings.Contains(string(h.Changes[0].Object), `"note":"text"`) {
		t.Errorf("%s", h.Changes[0].Object)
	}
}

// only allows what it holds, as "verb resource/name".
type only map[string]bool

func (o only) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if o[a.GetVerb()+" "+a.GetResource()+"/"+a.GetName()] {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionDeny, "", nil
}

func (o only) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(o.Authorize(ctx, a))
}

func (only) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", nil
}

// TestRightsInThePast: the past of an object is for those who may read the object, and for nobody else.
func TestRightsInThePast(t *testing.T) {
	rights := only{"create secrets/": true}
	s := apitest.New(t, func(c *api.Config) { c.Authorizer = rights })
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}, StringData: map[string]string{"k": "v"}}
	if _, err := s.Client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const secrets = "/api/v1/namespaces/default/secrets"
	for path, right := range map[string]string{
		secrets + "/a?history=changes": "get secrets/a", secrets + "/a?atRevision=1": "get secrets/a", secrets + "/a?at=0s": "get secrets/a",
		secrets + "?history=changes": "list secrets/", secrets + "?history=deleted": "list secrets/", secrets + "?atRevision=1": "list secrets/",
	} {
		for _, may := range []string{"get secrets/a", "list secrets/", "get secrets/b", "watch secrets/"} {
			clear(rights)
			rights[may] = true
			if a := ask(t, s, path, jsonType); (a.code == http.StatusForbidden) == (may == right) {
				t.Errorf("%s with the right to %s: %d %s", path, may, a.code, a.body)
			}
		}
	}
}
