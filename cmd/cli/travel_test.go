package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"mgr/api"
	"mgr/api/apitest"
)

// line is the command line before a server without Raft.
type line struct {
	*apitest.Server
	kubeconfig string
	plain      bool // the server is one that does not know of the past
}

func newLine(t *testing.T) *line {
	s := apitest.New(t)
	l := &line{Server: s}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); l.plain {
			for _, name := range []string{"at", "atRevision", "history"} {
				q.Del(name)
			}
			r.URL.RawQuery = q.Encode()
		}
		s.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	dir := t.TempDir()
	t.Setenv("KUBECACHEDIR", filepath.Join(dir, "cache"))
	l.kubeconfig = filepath.Join(dir, "config")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {token: x}}]}`, web.URL)
	if err := os.WriteFile(l.kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// mgr runs a command line, and returns what it printed and, as the last thing, why it failed.
func (l *line) mgr(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	args = append([]string{"mgr", args[0], "--kubeconfig", l.kubeconfig}, args[1:]...)
	if args[1] == "__complete" {
		args = append([]string{"mgr", "__complete", args[4], "--kubeconfig", l.kubeconfig}, args[5:]...)
	}
	root := newRoot(args, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out})
	root.SetArgs(args[1:])
	root.SetOut(&out)
	root.SetErr(&out)
	root.SilenceErrors, root.SilenceUsage = true, true
	type fatal string
	cmdutil.BehaviorOnFatal(func(msg string, _ int) { panic(fatal(msg)) })
	defer cmdutil.DefaultBehaviorOnFatal()
	func() {
		defer func() {
			if p, ok := recover().(fatal); ok {
				out.WriteString(string(p))
			}
		}()
		cmdutil.CheckErr(root.Execute())
	}()
	return out.String()
}

// expect fails the test unless the output holds all of the texts.
func expect(t *testing.T, output string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(output, text) {
			t.Errorf("the output lacks %q:\n%s", text, output)
		}
	}
}

// narrow fails the test if a table does not fit.
func narrow(t *testing.T, output string) {
	t.Helper()
	for l := range strings.Lines(output) {
		if n := utf8.RuneCountInString(strings.TrimRight(l, "\n")); n > lineWidth {
			t.Errorf("a line of %d columns: %s", n, l)
		}
	}
}

func (l *line) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGetOfThePast(t *testing.T) {
	l := newLine(t)
	ctx := t.Context()
	maps := l.Client.CoreV1().ConfigMaps("default")
	for _, name := range []string{"one", "two"} {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"n": name}}, Data: map[string]string{"k": "old"}}, metav1.CreateOptions{})
		l.must(t, err)
	}
	then := fmt.Sprint(l.Quorum.FSM().State().Revision())
	l.must(t, maps.Delete(ctx, "one", metav1.DeleteOptions{}))
	_, err := maps.Patch(ctx, "two", types.MergePatchType, []byte(`{"data":{"k":"new"}}`), metav1.PatchOptions{})
	l.must(t, err)
	expect(t, l.mgr(t, "get", "cm", "--at-revision", then), "NAME", "one", "two")
	expect(t, l.mgr(t, "get", "cm", "one", "-o", "yaml", "--at-revision", then), "k: old", "name: one")
	expect(t, l.mgr(t, "get", "cm/one", "cm/two", "-o", "jsonpath={.items[*].data.k}", "--at-revision", then), "old old")
	expect(t, l.mgr(t, "describe", "cm", "two", "--at-revision", then), "old")
	if out := l.mgr(t, "get", "cm", "-l", "n=one", "-o", "name", "--chunk-size=1", "--at-revision", then); out != "configmap/one\n" {
		t.Errorf("with a selector: %s", out)
	}
	if out := l.mgr(t, "get", "cm,secrets", "-o", "name"); out != "configmap/two\n" {
		t.Errorf("now: %s", out)
	}
	expect(t, l.mgr(t, "get", "cm", "--at", "1h"), "No resources found")
	expect(t, l.mgr(t, "get", "cm", "one", "--at", "1h"), `configmaps "one" not found at revision 0`)
	expect(t, l.mgr(t, "get", "cm", "--at", "soon"), `invalid time "soon": write how long ago (5m, 2h30m, 3d)`)
	expect(t, l.mgr(t, "get", "cm", "--at-revision", "99999"), "revision 99999 is in the future: the cluster is at revision ")
	expect(t, l.mgr(t, "get", "cm", "-w", "--at", "1h"), "--watch shows what is to come")
	expect(t, l.mgr(t, "get", "cm", "--at-revision", "1", "--at", "1h"), "none of the others can be")
	expect(t, l.mgr(t, "get", "--help"), "--at-revision", "mgr get pods --at 5m")
	expect(t, l.mgr(t, "__complete", "get", "pods", "--at", ""), "5m")
}

func TestHistoryCommand(t *testing.T) {
	l := newLine(t)
	ctx := t.Context()
	made := l.mgr(t, "create", "deployment", "web", "--image", "one:1", "--replicas", "2")
	expect(t, made, "deployment.apps/web created")
	expect(t, l.mgr(t, "set", "image", "deployment/web", "one=two:2"), "image updated")
	expect(t, l.mgr(t, "label", "deployment/web", "team="+strings.Repeat("long", 15)), "labeled")
	expect(t, l.mgr(t, "delete", "deployment", "web"), "deleted")
	out := l.mgr(t, "history", "deployment/web")
	expect(t, out, "REVISION", "created", "changed", "deleted", "mgr-admin", "patch", "delete",
		"~ spec.template.spec.containers[one].image: one:1 → two:2", "+ metadata.labels.team: longlong")
	narrow(t, out)
	if strings.Contains(out, "managedFields") || strings.Contains(out, "\x1b[") {
		t.Errorf("noise:\n%s", out)
	}
	expect(t, l.mgr(t, "history", "deploy", "web", "--diff=unified"), "-      - image: one:1", "+      - image: two:2", "@@")
	root := newRoot([]string{"mgr", "-n", "default", "history", "deploy/web"}, genericiooptions.IOStreams{})
	if cmd, _, err := root.Find([]string{"-n", "default", "history", "deploy/web"}); err != nil || cmd.Name() != "history" {
		t.Errorf("flags before the command: %v", err)
	}
	if out := l.mgr(t, "history", "deploy/web", "--diff=none", "--limit", "1"); strings.Contains(out, "created") || !strings.Contains(out, "3 older changes are not shown") {
		t.Errorf("limited:\n%s", out)
	}
	expect(t, l.mgr(t, "history", "deploy/web", "-o", "wide"), "TIME", "patch /apis/apps/v1/namespaces/default/deployments/web")
	out = l.mgr(t, "history", "deployments", "-A")
	expect(t, out, "NAMESPACE", "default", "web")
	narrow(t, out)
	var told struct {
		Changes []struct {
			Type   string
			Fields []fieldChange
		}
	}
	l.must(t, json.Unmarshal([]byte(l.mgr(t, "history", "deploy/web", "-o", "json")), &told))
	if len(told.Changes) != 4 || told.Changes[1].Fields[0].New != "two:2" {
		t.Errorf("%+v", told)
	}
	expect(t, l.mgr(t, "history", "cm/none"), `configmaps "none" not found, nor in the history, which begins at revision 0`)
	expect(t, l.mgr(t, "history", "nonsense/x"), `the server knows no "nonsense"`)
	expect(t, l.mgr(t, "history", "deploy/web", "--diff=x"), "unknown --diff")
	expect(t, l.mgr(t, "history", "deploy/web", "-A"), "leave the name away")

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{lastApplied: `{"data":"hush"}`}},
		StringData: map[string]string{"a": "hush", "b": "hush"}}
	_, err := l.Client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{})
	l.must(t, err)
	_, err = l.Client.CoreV1().Secrets("default").Patch(ctx, "s", types.MergePatchType, []byte(`{"stringData":{"a":"quiet"}}`), metav1.PatchOptions{})
	l.must(t, err)
	for _, args := range [][]string{nil, {"--diff=unified"}, {"-o", "json"}, {"-o", "yaml"}, {"--limit", "1"}} {
		out := l.mgr(t, append([]string{"history", "secret/s"}, args...)...)
		for _, text := range []string{"hush", "aHVzaA", "quiet", "cXVpZXQ"} {
			if strings.Contains(out, text) {
				t.Errorf("history of a secret with %v shows %s:\n%s", args, text, out)
			}
		}
	}
	expect(t, l.mgr(t, "history", "secret/s"), "~ data.a: (hidden ")
	expect(t, l.mgr(t, "history", "secret/s", "--show-secrets"), "~ data.a: aHVzaA== → cXVpZXQ=")
}

func TestUndelete(t *testing.T) {
	l := newLine(t)
	ctx := t.Context()
	maps, services, pods := l.Client.CoreV1().ConfigMaps("default"), l.Client.CoreV1().Services("default"), l.Client.CoreV1().Pods("default")
	owner, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner", Labels: map[string]string{"app": "x"}}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	l.must(t, err)
	first := owner.ResourceVersion
	_, err = maps.Patch(ctx, "owner", types.MergePatchType, []byte(`{"data":{"k":"2"}}`), metav1.PatchOptions{})
	l.must(t, err)
	ref := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}
	_, err = l.Client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{ref}}}, metav1.CreateOptions{})
	l.must(t, err)
	service, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "svc"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	l.must(t, err)
	_, err = pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "gone", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	l.must(t, err)

	expect(t, l.mgr(t, "undelete", "cm/owner"), "configmap/owner exists; to put an older form in its place")
	l.must(t, maps.Delete(ctx, "owner", metav1.DeleteOptions{}))
	l.must(t, l.Client.CoreV1().Secrets("default").Delete(ctx, "owned", metav1.DeleteOptions{}))
	l.must(t, services.Delete(ctx, "svc", metav1.DeleteOptions{}))
	zero := int64(0)
	l.must(t, pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}))

	expect(t, l.mgr(t, "undelete", "cm", "--list"), "NAME", "configmap/owner", "mgr-admin")
	expect(t, l.mgr(t, "__complete", "undelete", "cm/o"), "cm/owner")
	expect(t, l.mgr(t, "undelete", "cm"), "which configmaps?")
	expect(t, l.mgr(t, "undelete", "cm", "-l", "app=y"), `no deleted configmaps match "app=y": history begins at revision 0`)
	expect(t, l.mgr(t, "undelete", "cm/none"), `configmaps "none" not found, nor in the history`)
	for _, dry := range []string{"client", "server"} {
		expect(t, l.mgr(t, "undelete", "cm/owner", "--dry-run="+dry), "dry run)")
		if _, err := maps.Get(ctx, "owner", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("--dry-run=%s: %v", dry, err)
		}
	}
	expect(t, l.mgr(t, "undelete", "secret/owned", "--dry-run=server"), "its owner configmap/owner is gone")
	expect(t, l.mgr(t, "undelete", "cm", "-l", "app=x", "--cascade"), "configmap/owner is back", "secret/owned is back")
	back, err := maps.Get(ctx, "owner", metav1.GetOptions{})
	l.must(t, err)
	if back.UID == owner.UID || back.Data["k"] != "2" || back.Labels["app"] != "x" {
		t.Errorf("%+v", back)
	}
	owned, err := l.Client.CoreV1().Secrets("default").Get(ctx, "owned", metav1.GetOptions{})
	l.must(t, err)
	if len(owned.OwnerReferences) != 1 || owned.OwnerReferences[0].UID != back.UID {
		t.Errorf("its owner is %+v, want %s", owned.OwnerReferences, back.UID)
	}
	l.must(t, maps.Delete(ctx, "owner", metav1.DeleteOptions{}))
	expect(t, l.mgr(t, "undelete", "configmaps", "owner", "--at-revision", first), "configmap/owner is back")
	if back, err = maps.Get(ctx, "owner", metav1.GetOptions{}); err != nil || back.Data["k"] != "1" {
		t.Errorf("%v, %+v", err, back)
	}
	expect(t, l.mgr(t, "undelete", "pod/p"), "pod/p is back")
	if p, err := pods.Get(ctx, "p", metav1.GetOptions{}); err != nil || p.Spec.NodeName != "" || p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodPending {
		t.Errorf("%v, %+v", err, p)
	}
	// A service keeps its addresses where they are free, and gets others where they are not.
	taken := service.DeepCopy()
	taken.ObjectMeta = metav1.ObjectMeta{Name: "thief"}
	_, err = services.Create(ctx, taken, metav1.CreateOptions{})
	l.must(t, err)
	expect(t, l.mgr(t, "undelete", "svc/svc"), "service/svc is back", "it has new ones")
	again, err := services.Get(ctx, "svc", metav1.GetOptions{})
	l.must(t, err)
	if again.Spec.ClusterIP == service.Spec.ClusterIP || again.Spec.Ports[0].NodePort == service.Spec.Ports[0].NodePort {
		t.Errorf("%+v", again.Spec)
	}
	l.must(t, services.Delete(ctx, "thief", metav1.DeleteOptions{}))
	expect(t, l.mgr(t, "undelete", "svc/thief"), "service/thief is back")
	if again, err = services.Get(ctx, "thief", metav1.GetOptions{}); err != nil || again.Spec.ClusterIP != service.Spec.ClusterIP {
		t.Errorf("%v, %+v", err, again)
	}
}

// TestOtherServersHaveNoPast: a server that does not know the parameters would show the present, or an object, for the past.
func TestOtherServersHaveNoPast(t *testing.T) {
	l := newLine(t)
	l.plain = true
	_, err := l.Client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	l.must(t, err)
	for _, args := range [][]string{{"get", "cm", "--at", "1h"}, {"get", "cm", "a", "--at-revision", "1"}, {"history", "cm/a"}, {"undelete", "cm/a"}, {"undelete", "cm", "--list"}} {
		expect(t, l.mgr(t, args...), "does not know the past")
	}
}

// TestHistoryThatIsOver: where nothing, or not everything, is known any more, it is said how far history reaches.
func TestHistoryThatIsOver(t *testing.T) {
	deployments := ref{RESTMapping: &meta.RESTMapping{Resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
		GroupVersionKind: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, Scope: meta.RESTScopeNamespace}, namespace: "d", name: "web"}
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	h := toldHistory{History: api.History{Begins: api.Beginning{Revision: 812, Time: &at}}}
	for _, c := range []struct {
		changes []toldChange
		left    int
		want    string
	}{
		{nil, 0, "No changes of deployment.apps/web are known: history begins at revision 812 (2026-11-23T10:00:00Z, "},
		{[]toldChange{{Change: api.Change{Type: "MODIFIED"}}}, 0, "History begins at revision 812 ("},
		{[]toldChange{{Change: api.Change{Type: "MODIFIED"}}}, 3, "3 older changes are not shown: "},
		{[]toldChange{{Change: api.Change{Type: "ADDED"}}}, 0, "REVISION"},
	} {
		var out bytes.Buffer
		h.Changes, h.Left = c.changes, c.left
		newHistoryPrinter(&out, &historyFlags{}).print(&h, deployments)
		if !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%s, want %s", out.String(), c.want)
		}
	}
}
