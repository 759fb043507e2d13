package node

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// hostsToml configures a registry on this machine's nodes, for the test.
func hostsToml(t *testing.T, registry, text string) {
	t.Helper()
	dir := filepath.Join("/etc/containerd/certs.d", registry)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.RemoveAll(dir)
		_ = os.Remove(filepath.Dir(dir)) // if it was made for us
	})
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pullSecret makes a secret with a password for a registry.
func pullSecret(t *testing.T, s *cluster.Space, name, registry, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + password))
	_, err := s.Kube.CoreV1().Secrets(s.Namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name},
		Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry, auth)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// pulls is a pod of an image, on node-1 so that tests know whose images they are.
func pulls(name, image string, policy corev1.PullPolicy, secrets ...string) *corev1.Pod {
	p := cluster.Busybox(name, "exec sleep 3600")
	p.Spec.NodeName = "node-1"
	p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, policy
	for _, s := range secrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	return p
}

// waits is true of a pod that waits for one of the reasons, with all the words in its message.
func waits(reason string, words ...string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		w := cluster.StatusOf(p, "main").State.Waiting
		if w == nil || w.Reason != reason {
			return false
		}
		for _, word := range words {
			if !strings.Contains(w.Message, word) {
				return false
			}
		}
		return true
	}
}

// TestPrivateRegistry goes through what a user meets at a registry with a password and a certificate of its own.
func TestPrivateRegistry(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	r := startRegistry(t)
	manifest, layer := r.Push("team/app", "1", s.Namespace)
	app := r.Addr + "/team/app:1"

	// Nobody has told the nodes yet whom to trust. What fails now goes on by itself when that is done.
	pullSecret(t, s, "mine", r.Addr, registryPassword)
	pullSecret(t, s, "guess", r.Addr, "sesame")
	s.Create(pulls("early", app, corev1.PullIfNotPresent, "mine"))
	s.Await("early", "does not trust", waits("ErrImagePull", "failed to pull and unpack image \""+app+"\"", "x509"))
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, r.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	hostsToml(t, r.Addr, fmt.Sprintf("server = \"https://%s\"\nca = %q\n", r.Addr, ca))

	// All at once, so that one download serves the three that may.
	for _, name := range []string{"one", "two", "three"} {
		s.Create(pulls(name, app, corev1.PullIfNotPresent, "absent", "mine"))
	}
	s.Create(pulls("nobody", app, corev1.PullIfNotPresent))
	s.Create(pulls("wrong", app, corev1.PullIfNotPresent, "guess"))
	s.Create(pulls("late", app, corev1.PullAlways, "later"))
	s.Create(pulls("typo", r.Addr+"/team/app:2", corev1.PullAlways, "mine"))
	s.Create(pulls("digest", r.Addr+"/team/app@"+manifest, corev1.PullIfNotPresent, "guess", "mine"))
	s.Create(pulls("nodigest", r.Addr+"/team/app@sha256:"+strings.Repeat("0", 64), corev1.PullIfNotPresent, "mine"))
	for _, name := range []string{"one", "two", "three", "digest", "early"} {
		p := s.Await(name, "is ready", cluster.Ready)
		if id := cluster.StatusOf(p, "main").ImageID; id != r.Addr+"/team/app@"+manifest {
			t.Errorf("%s: imageID %s, want the digest %s", name, id, manifest)
		}
	}
	if n := r.Asked("GET", layer); n != 1 {
		t.Errorf("the layer was downloaded %d times", n)
	}
	s.AwaitEvent("one", "FailedToRetrieveImagePullSecret", "absent")
	s.Await("nobody", "is refused", waits("ImagePullBackOff", "Back-off pulling image", "ErrImagePull", "authorization failed"))
	s.Await("wrong", "is refused", waits("ImagePullBackOff", "ErrImagePull"))
	s.Await("typo", "is not found", waits("ImagePullBackOff", "team/app:2", "not found"))
	s.Await("nodigest", "is not found", waits("ImagePullBackOff", "not found"))
	s.Create(pulls("spy", app, corev1.PullNever))
	s.Await("spy", "does not learn that the image is there", waits("ErrImageNeverPull"))

	pullSecret(t, s, "later", "*."+strings.SplitN(r.Addr, ".", 2)[1], registryPassword) // a pattern
	s.Await("late", "is ready after its secret came", cluster.Ready)
	if n := r.Asked("GET", layer); n != 1 {
		t.Errorf("the policy Always has downloaded again: %d times", n)
	}
	if out := s.Mgr(t.Context(), "get", "node", "node-1", "-o", "jsonpath={.status.images[*].names}"); !strings.Contains(out.Stdout, cluster.BusyboxImage) {
		t.Errorf("the node's images: %s", out.Stdout)
	}
}

// TestRegistryMirror: an image of a registry that nobody reaches comes from its mirror, and one that is down comes when it is back.
func TestRegistryMirror(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	r := startRegistry(t)
	manifest, _ := r.Push("team/app", "1", s.Namespace)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, r.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	name := s.Namespace + ".registry.invalid"
	hostsToml(t, name, fmt.Sprintf(`server = "https://%s"
[host."https://127.0.0.1:1"]
  capabilities = ["pull", "resolve"]
[host."https://%s"]
  capabilities = ["pull", "resolve"]
  ca = %q
`, name, r.Addr, ca))
	pullSecret(t, s, "mirror", r.Addr, registryPassword)
	pullSecret(t, s, "origin", name, "for the origin only")
	p := s.Run(pulls("mirrored", name+"/team/app:1", corev1.PullIfNotPresent, "origin", "mirror"))
	if id := cluster.StatusOf(p, "main").ImageID; id != name+"/team/app@"+manifest {
		t.Errorf("imageID %s", id)
	}
	hostsToml(t, r.Addr, fmt.Sprintf("server = \"https://%s\"\nca = %q\n", r.Addr, ca))
	r.Push("team/other", "1", "other "+s.Namespace)
	r.Down()
	s.Create(pulls("patient", r.Addr+"/team/other:1", corev1.PullIfNotPresent, "mirror"))
	s.Await("patient", "finds the registry down", waits("ErrImagePull", "connection refused"))
	r.Up()
	s.Await("patient", "is ready when the registry is back", cluster.Ready)
}
