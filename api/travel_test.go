package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/api"
	"mgr/api/apitest"
)

// answer is what a read was answered.
type answer struct {
	code     int
	body     string
	revision string
}

func ask(t *testing.T, s *apitest.Server, path, accept string) answer {
	t.Helper()
	r := request(t.Context(), t, s, http.MethodGet, path, "", "Accept", accept)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{code: r.StatusCode, body: string(b), revision: r.Header.Get(api.RevisionHeader)}
}

// with adds a parameter to a path.
func with(path, parameter string) string {
	if strings.Contains(path, "?") {
		return path + "&" + parameter
	}
	return path + "?" + parameter
}

const (
	jsonType  = "application/json"
	tableType = "application/json;as=Table;v=v1;g=meta.k8s.io"
	protoType = "application/vnd.kubernetes.protobuf"
)

// TestPastIsWhatWasAnswered: while objects come, change and go at random, reads of every sort are recorded. Asked later for the same
// revision or second, the server answers the same, byte for byte: lists and objects, selectors, pages, tables with their ages, protobuf.
func TestPastIsWhatWasAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apitest.New(t)
		paths := []string{
			"/api/v1/namespaces/default/configmaps", "/api/v1/configmaps?labelSelector=odd%3Dyes", "/api/v1/configmaps?limit=2",
			"/api/v1/configmaps?fieldSelector=metadata.name%3Dc1", "/api/v1/namespaces/default/configmaps/c1", "/api/v1/namespaces/default/configmaps/c2",
			"/apis/apps/v1/deployments", "/apis/apps/v1/namespaces/default/deployments/c3", "/apis/apps/v1/namespaces/default/deployments/c3/scale",
		}
		type moment struct {
			second   time.Time
			revision uint64
			answers  map[string]answer
		}
		var moments []moment
		random := rand.New(rand.NewPCG(1, 2))
		for range 40 {
			changeSomething(t, s, random)
			time.Sleep(time.Second) // so that ages are told for the end of the second
			m := moment{second: time.Now(), revision: s.Quorum.FSM().State().Revision(), answers: map[string]answer{}}
			for _, path := range paths {
				for _, accept := range []string{jsonType, tableType, protoType} {
					m.answers[path+" "+accept] = ask(t, s, path, accept)
				}
			}
			moments = append(moments, m)
		}
		time.Sleep(time.Hour)
		compared := 0
		for _, m := range moments {
			for key, want := range m.answers {
				path, accept, _ := strings.Cut(key, " ")
				for _, parameter := range []string{
					fmt.Sprintf("atRevision=%d", m.revision), "at=" + m.second.UTC().Format(time.RFC3339), fmt.Sprintf("at=%s", time.Since(m.second)),
				} {
					got := ask(t, s, with(path, parameter), accept)
					want.revision = fmt.Sprint(m.revision)
					if strings.Contains(path, "limit") { // the token says when its list began
						got.body, want.body = withoutToken(got.body), withoutToken(want.body)
					}
					if want.code == http.StatusNotFound && got.code == want.code {
						continue // the text says at which revision
					}
					if got != want {
						t.Fatalf("%s as %s is\n%+v\nit was\n%+v", with(path, parameter), accept, got, want)
					}
					compared++
				}
			}
		}
		if compared < 2000 {
			t.Errorf("only %d answers were compared", compared)
		}
	})
}

// withoutToken cuts out a continue token, in JSON or, as is enough to compare, in protobuf.
func withoutToken(s string) string {
	before, rest, found := strings.Cut(s, "eyJ2Ijoi")
	if !found {
		return s
	}
	return before + strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
}

// changeSomething creates, changes or deletes some of four objects of two kinds.
func changeSomething(t *testing.T, s *apitest.Server, random *rand.Rand) {
	t.Helper()
	ctx := t.Context()
	for range 1 + random.IntN(3) {
		name := fmt.Sprintf("c%d", random.IntN(4))
		maps, deployments := s.Client.CoreV1().ConfigMaps("default"), s.Client.AppsV1().Deployments("default")
		var err error
		switch {
		case random.IntN(4) == 0:
			if _, err = deployments.Get(ctx, name, metav1.GetOptions{}); err != nil {
				_, err = deployments.Create(ctx, deployment(name), metav1.CreateOptions{})
			} else if random.IntN(3) == 0 {
				err = deployments.Delete(ctx, name, metav1.DeleteOptions{})
			} else {
				patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, random.IntN(9))
				_, err = deployments.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			}
		default:
			if _, err = maps.Get(ctx, name, metav1.GetOptions{}); err != nil {
				_, err = maps.Create(ctx, configMap(name, map[string]string{"k": "v"}), metav1.CreateOptions{})
			} else if random.IntN(3) == 0 {
				err = maps.Delete(ctx, name, metav1.DeleteOptions{})
			} else {
				patch := fmt.Sprintf(`{"metadata":{"labels":{"odd":%q}},"data":{"k":"%d"}}`, []string{"yes", "no"}[random.IntN(2)], random.IntN(1000))
				_, err = maps.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
}

// TestPagesOfThePast: a list of the past that is read in pages is of one revision, and its tokens expire as others do.
func TestPagesOfThePast(t *testing.T) {
	s := apitest.New(t)
	maps := s.Client.CoreV1().ConfigMaps("default")
	for _, name := range []string{"a", "b", "c"} {
		if _, err := maps.Create(t.Context(), configMap(name, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	then := s.Quorum.FSM().State().Revision()
	for _, name := range []string{"b", "c"} {
		if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	token := ""
	for {
		path := fmt.Sprintf("/api/v1/namespaces/default/configmaps?limit=1&atRevision=%d", then)
		if token != "" {
			path += "&continue=" + token
		}
		var list corev1.ConfigMapList
		if err := json.Unmarshal([]byte(ask(t, s, path, jsonType).body), &list); err != nil {
			t.Fatal(err)
		}
		if list.ResourceVersion != fmt.Sprint(then) {
			t.Fatalf("a page of revision %s, want %d", list.ResourceVersion, then)
		}
		for _, m := range list.Items {
			names = append(names, m.Name)
		}
		if token = list.Continue; token == "" {
			break
		}
		old := change(t, token, "began", func(old float64) float64 { return old - 3600 })
		if a := ask(t, s, path+"&continue="+old, jsonType); len(names) == 1 && a.code != http.StatusGone {
			t.Errorf("a token of an hour ago: %+v", a)
		}
	}
	if fmt.Sprint(names) != "[a b c]" {
		t.Errorf("%v", names)
	}
}

// TestRefusalsOfThePast: what cannot be asked is refused with what can.
func TestRefusalsOfThePast(t *testing.T) {
	s := apitest.New(t)
	if _, err := s.Client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	maps := "/api/v1/namespaces/default/configmaps"
	for path, want := range map[string]string{
		maps + "?atRevision=9999":                "400 revision 9999 is in the future: the cluster is at revision ",
		maps + "?atRevision=x":                   `400 invalid revision "x"`,
		maps + "?at=yesterday":                   `400 invalid time "yesterday": write how long ago (5m, 2h30m, 3d) or a timestamp (`,
		maps + "?at=-5m":                         `400 invalid time "-5m"`,
		maps + "?at=2999-01-01T00:00:00Z":        "400 2999-01-01T00:00:00Z is in the future",
		maps + "?atRevision=1&at=5m":             "400 atRevision and at exclude each other",
		maps + "?atRevision=1&resourceVersion=1": "400 resourceVersion and atRevision, at and history exclude each other",
		maps + "?atRevision=1&watch=true":        "400 atRevision, at and history are for get and list only, not for watch",
		maps + "?history=all":                    `400 invalid history="all": it must be changes, or deleted for a list`,
		maps + "/a?history=deleted":              `400 invalid history="deleted"`,
		maps + "/none?history=changes":           `404 configmaps "none" not found, nor in the history, which begins at revision 0`,
		maps + "/a?history=changes&limit=-1":     `400 invalid limit "-1"`,
		maps + "/a?history=changes&since=x":      `400 invalid time "x"`,
		"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?at=5m": "400 the heartbeats of nodes are kept in memory",
		"/api/v1/namespaces/default/pods/p/log?at=5m":                          "400 atRevision, at and history are for stored objects, not for pods/p/log",
	} {
		a := ask(t, s, path, jsonType)
		var status metav1.Status
		if err := json.Unmarshal([]byte(a.body), &status); err != nil {
			t.Errorf("%s: %v: %s", path, err, a.body)
		}
		if got := fmt.Sprintf("%d %s", a.code, status.Message); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
