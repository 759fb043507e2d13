package volume

import (
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func (s *source) TrustBundle(_ context.Context, name string) (*certificatesv1.ClusterTrustBundle, error) {
	if s.down != nil {
		return nil, s.down
	}
	for _, b := range s.bundles {
		if b.Name == name {
			return b, nil
		}
	}
	return nil, apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundle"), name)
}

func (s *source) TrustBundles(context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	return append([]*certificatesv1.ClusterTrustBundle(nil), s.bundles...), s.down
}

// root stands for a certificate: nobody parses it here.
func root(name string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(name)}))
}

const (
	signerA = "example.com/a"
	signerB = "example.com/b"
)

func (w *world) bundle(name, signer, live string, roots ...string) {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"live": live}},
		Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	for _, r := range roots {
		b.Spec.TrustBundle += "a remark\n" + root(r)
	}
	w.source.bundles = append(w.source.bundles, b)
}

func trusting(src v1.ClusterTrustBundleProjection) *v1.Pod {
	src.Path = "roots.pem"
	return pod(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{
		Sources: []v1.VolumeProjection{{ClusterTrustBundle: &src}}}}})
}

// shows mounts the pod's volume and reads one of its files.
func (w *world) shows(p *v1.Pod, file string) (string, error) {
	w.t.Helper()
	mounts, _, err := w.Mount(context.Background(), p)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(mounts["v"].Path, file))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data), nil
}

func TestTrustBundlesAreShown(t *testing.T) {
	w := newWorld(t)
	w.bundle("example.com:a:2", signerA, "true", "r3", "r1")
	w.bundle("example.com:a:1", signerA, "true", "r1", "r2")
	w.bundle("example.com:a:3", signerA, "false", "r4")
	w.bundle("example.com:b:1", signerB, "true", "r5")
	w.bundle("nobodys", "", "true", "r9", "r6")
	all, live := &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: map[string]string{"live": "true"}}
	const none = "combination of signerName and labelSelector matched zero ClusterTrustBundles"
	for what, tt := range map[string]struct {
		src  v1.ClusterTrustBundleProjection
		want []string
		err  string
	}{
		"one by name":                {src: v1.ClusterTrustBundleProjection{Name: ptr.To("nobodys")}, want: []string{"r6", "r9"}},
		"no such name":               {src: v1.ClusterTrustBundleProjection{Name: ptr.To("x")}, err: `"x" not found`},
		"no such name, optional":     {src: v1.ClusterTrustBundleProjection{Name: ptr.To("x"), Optional: ptr.To(true)}},
		"all of a signer, each once": {src: v1.ClusterTrustBundleProjection{SignerName: ptr.To(signerA), LabelSelector: all}, want: []string{"r1", "r2", "r3", "r4"}},
		"some of a signer":           {src: v1.ClusterTrustBundleProjection{SignerName: ptr.To(signerA), LabelSelector: live}, want: []string{"r1", "r2", "r3"}},
		"no selector selects none":   {src: v1.ClusterTrustBundleProjection{SignerName: ptr.To(signerA)}, err: none},
		"no selector, optional":      {src: v1.ClusterTrustBundleProjection{SignerName: ptr.To(signerA), Optional: ptr.To(true)}},
		"nobody's are no signer's":   {src: v1.ClusterTrustBundleProjection{SignerName: ptr.To("example.com/c"), LabelSelector: all}, err: none},
		"neither":                    {err: "requires either name or signerName"},
	} {
		want := ""
		for _, r := range tt.want {
			want += root(r)
		}
		got, err := w.shows(trusting(tt.src), "roots.pem")
		if got != want || (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v; want %q, %q", what, got, err, want, tt.err)
		}
	}
}

func TestTrustFollowsTheBundlesAndOutlivesTheMasters(t *testing.T) {
	w := newWorld(t)
	w.bundle("b", "", "", "r1")
	p := trusting(v1.ClusterTrustBundleProjection{Name: ptr.To("b")})
	show := func(want string) {
		t.Helper()
		if got, err := w.shows(p, "roots.pem"); err != nil || got != root(want) {
			t.Errorf("%q, %v, want the root %s", got, err, want)
		}
	}
	show("r1")
	w.source.bundles = nil
	w.bundle("b", "", "", "r2")
	show("r2")
	w.source.down = apierrors.NewTimeoutError("no masters", 1)
	show("r2")
}
