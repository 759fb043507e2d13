package agent

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStaticPods(t *testing.T) {
	dir := t.TempDir()
	manifest := func(image string) []byte {
		return []byte("apiVersion: v1\nkind: Pod\nmetadata:\n  name: static\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: " + image + "\n")
	}
	if err := os.WriteFile(dir+"/a.yaml", manifest("demo:1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/broken.yaml", []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *Config) { c.ManifestDir = dir })
	pod := r.wait("static-n1", "the mirror is ready", ready)
	if pod.Annotations[mirrorAnnotation] == "" || pod.Annotations[mirrorAnnotation] != pod.Annotations[hashAnnotation] || pod.Annotations[sourceAnnotation] != "file" {
		t.Errorf("annotations %v", pod.Annotations)
	}
	r.delete("static-n1", 0)
	again := r.wait("static-n1", "the mirror is back", func(p *v1.Pod) bool { return p.UID != pod.UID && ready(p) })
	if c, _, _ := r.runtime.last("static-n1", "main"); c.Attempt != 0 || c.State != ContainerRunning {
		t.Errorf("the container did not outlive its mirror: %+v", c)
	}
	r.runtime.mu.Lock()
	r.runtime.images["demo:2"] = r.runtime.images["demo:1"]
	r.runtime.mu.Unlock()
	if err := os.WriteFile(dir+"/a.yaml", manifest("demo:2"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.wait("static-n1", "the changed manifest runs", func(p *v1.Pod) bool {
		return p.UID != again.UID && ready(p) && p.Spec.Containers[0].Image == "demo:2"
	})
	if err := os.Remove(dir + "/a.yaml"); err != nil {
		t.Fatal(err)
	}
	r.gone("static-n1")
	r.until("nothing is left", func() bool { s, _ := r.runtime.Sandboxes(t.Context()); return len(s) == 0 })
}

// A container may end while its start is still under way; the listing that tells of it is passed over then, and nothing else would
// tell of it again.

func manifest(name, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + name + "\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: 'demo:1'}\n" + spec
}

func TestManifestsThatAreRefused(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"{", "decoding"},
		{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "it holds a *v1.ConfigMap, not a Pod"},
		{manifest("''", ""), "a pod needs a name"},
		{manifest("UPPER", ""), `metadata.name: Invalid value: "UPPER-n1"`},
		{manifest("a", "  restartPolicy: Sometimes\n"), "spec.restartPolicy: Unsupported value"},
		{manifest("a", "  serviceAccountName: default\n"), "static pods may not reference serviceaccounts"},
		{manifest("a", "  volumes:\n  - name: v\n    secret: {secretName: s}\n"), "static pods may not reference secrets"},
		{manifest("a", "  volumes:\n  - name: v\n    configMap: {name: s}\n"), "static pods may not reference configmaps"},
		{manifest("a", "  volumes:\n  - name: v\n    persistentVolumeClaim: {claimName: s}\n"), "static pods may not reference persistentvolumeclaims"},
	} {
		pods, err := decodeManifests([]byte(c.text))
		if err == nil {
			_, err = plainAgent().staticPod(pods[0], sourceFile, "/x.yaml")
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want %q", c.text, err, c.says)
		}
	}
}

func TestManifestGetsEveryDefault(t *testing.T) {
	pods, err := decodeManifests([]byte(manifest("a", "")))
	if err != nil {
		t.Fatal(err)
	}
	pod, err := plainAgent().staticPod(pods[0], sourceFile, "/x.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, c := pod.Spec, pod.Spec.Containers[0]
	got := fmt.Sprint(pod.Namespace, pod.Name, s.NodeName, s.RestartPolicy, s.DNSPolicy, *s.EnableServiceLinks, c.ImagePullPolicy, c.TerminationMessagePath, len(s.Tolerations))
	if want := fmt.Sprint("default", "a-n1", "n1", v1.RestartPolicyAlways, v1.DNSClusterFirst, true, v1.PullIfNotPresent, "/dev/termination-log", 1); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestStaticPodsOfADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(dir+"/"+file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", manifest("same", ""))
	write("b.yaml", manifest("same", "  hostname: second\n"))
	write("c.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"json"},"spec":{"containers":[{"name":"main","image":"demo:1"}]}}`)
	r := newRig(t, func(c *Config) { c.ManifestDir = dir })
	first := r.wait("same-n1", "the first of one name runs", ready)
	r.wait("json-n1", "JSON is read too", ready)
	if first.Spec.Hostname != "" {
		t.Errorf("hostname %q", first.Spec.Hostname)
	}
	// A file that is spoilt keeps what it was good for.
	write("c.json", `{"apiVersion":"v1","kin`)
	if err := os.Remove(dir + "/a.yaml"); err != nil {
		t.Fatal(err)
	}
	r.wait("same-n1", "the second takes its place", func(p *v1.Pod) bool { return ready(p) && p.Spec.Hostname == "second" })
	r.wait("json-n1", "the spoilt one runs on", ready)
	if history := strings.Join(r.runtime.history(), ", "); strings.Index(history, "stop main") > strings.LastIndex(history, "sandbox same-n1") {
		t.Errorf("two of one name at a time: %s", history)
	}
	// An object of the API that says of itself that it is of a file is not.
	r.create(testPod("liar", func(p *v1.Pod) { p.Annotations = map[string]string{sourceAnnotation: sourceFile} }))
	r.wait("liar", "it is an ordinary pod", ready)
	r.delete("liar", 1)
	r.gone("liar")
}

func TestStaticPodsOfAURL(t *testing.T) {
	t.Parallel()
	var answer atomic.Value
	answer.Store("apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(manifest("far", ""), "\n", "\n  "))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Token") != "secret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, answer.Load().(string))
	}))
	defer server.Close()
	url := func(c *Config) {
		c.ManifestURL, c.ManifestURLHeader = server.URL, http.Header{"x-token": {"secret"}}
	}
	r := newRig(t, url)
	pod := r.wait("far-n1", "its mirror is ready", ready)
	if pod.Annotations[sourceAnnotation] != sourceURL {
		t.Errorf("annotations %v", pod.Annotations)
	}
	for _, bad := range []string{"", "{", manifest("UPPER", "")} {
		answer.Store(bad)
		if err := r.agent.fetchManifests(t.Context()); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	// An agent that starts while the URL is away goes on with what it knew.
	r.stop()
	server.Close()
	r.start(url)
	r.wait("far-n1", "its mirror is the same", func(p *v1.Pod) bool { return p.UID == pod.UID && ready(p) })
	if c, _, ok := r.runtime.last("far-n1", "main"); !ok || c.Attempt != 0 || c.State != ContainerRunning {
		t.Errorf("container %+v", c)
	}
	var list *v1.PodList
	r.until("it is the only pod", func() (ok bool) {
		var err error
		list, err = r.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 1
	}, func() any { return list })
}
