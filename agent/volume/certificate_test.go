package volume

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

func (s *source) CertificateRequest(_ context.Context, pod *v1.Pod, name string) (*certificatesv1.PodCertificateRequest, error) {
	if s.down != nil {
		return nil, s.down
	}
	if r := s.requests[name]; r != nil && r.Spec.PodName == pod.Name {
		return r, nil
	}
	return nil, apierrors.NewNotFound(certificatesv1.Resource("podcertificaterequest"), name)
}

// signer is a world in which requests for certificates are kept and events are heard.
type signer struct {
	*world
	asked  []*certificatesv1.PodCertificateRequest
	refuse error // what creating a request gives
	events []string
}

func newSigner(t *testing.T) *signer {
	s := &signer{world: newWorld(t)}
	s.source.requests = map[string]*certificatesv1.PodCertificateRequest{}
	client := fake.NewClientset(&v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "robot", UID: "u-robot"}})
	client.PrependReactor("create", "podcertificaterequests", func(a ktesting.Action) (bool, runtime.Object, error) {
		if s.refuse != nil {
			return true, nil, s.refuse
		}
		r := a.(ktesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest).DeepCopy()
		r.Name = r.GenerateName + strings.Repeat("x", len(s.asked)+1)
		s.asked = append(s.asked, r)
		s.source.requests[r.Name] = r
		return true, r, nil
	})
	s.Client = client
	s.NodeUID = func() (types.UID, error) { return "u-node", nil }
	s.Warn = func(_ *v1.Pod, reason, _ string) { s.events = append(s.events, reason) }
	return s
}

// last is the newest request.
func (s *signer) last() *certificatesv1.PodCertificateRequest { return s.asked[len(s.asked)-1] }

// issue answers the newest request with a chain that says the given words.
func (s *signer) issue(chain string) {
	s.last().Status = certificatesv1.PodCertificateRequestStatus{
		CertificateChain: "remark\n" + root(chain),
		NotBefore:        &metav1.Time{Time: s.now}, BeginRefreshAt: &metav1.Time{Time: s.now.Add(12 * time.Hour)}, NotAfter: &metav1.Time{Time: s.now.Add(24 * time.Hour)},
		Conditions: []metav1.Condition{{Type: "Issued", Status: "True"}},
	}
}

func certified(kind string) *v1.Pod {
	p := pod(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{
		PodCertificate: &v1.PodCertificateProjection{SignerName: signerA, KeyType: kind, MaxExpirationSeconds: ptr.To[int32](3600),
			CredentialBundlePath: "both", KeyPath: "key", CertificateChainPath: "d/chain", UserAnnotations: map[string]string{"example.com/a": "b"}}}}}}})
	p.Spec.ServiceAccountName, p.Spec.NodeName = "robot", "n1"
	return p
}

// waits wants the mount to fail for the given reason.
func (s *signer) waits(p *v1.Pod, why string) {
	s.t.Helper()
	if _, _, err := s.Mount(s.t.Context(), p); err == nil || !strings.Contains(err.Error(), why) {
		s.t.Errorf("mounted: %v, want %q", err, why)
	}
}

// holds wants the files of a certificate there, and returns the key.
func (s *signer) holds(p *v1.Pod, chain string) string {
	s.t.Helper()
	key, err := s.shows(p, "key")
	if err != nil {
		s.t.Fatal(err)
	}
	both, _ := s.shows(p, "both")
	if got, _ := s.shows(p, filepath.Join("d", "chain")); got != root(chain) || both != key+got {
		s.t.Errorf("chain %q of key and chain %q, want %q", got, both, root(chain))
	}
	return key
}

func TestPodGetsACertificateForAKeyOfItsOwn(t *testing.T) {
	for _, kind := range []string{"RSA3072", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		s, p := newSigner(t), certified(kind)
		s.waits(p, errNotIssued.Error())
		s.waits(p, errNotIssued.Error())
		if len(s.asked) != 1 {
			t.Fatalf("%s: %d requests, want 1", kind, len(s.asked))
		}
		r := s.last()
		want := certificatesv1.PodCertificateRequestSpec{SignerName: signerA, PodName: "p", PodUID: "u", ServiceAccountName: "robot", ServiceAccountUID: "u-robot",
			NodeName: "n1", NodeUID: "u-node", MaxExpirationSeconds: ptr.To[int32](3600), UnverifiedUserAnnotations: map[string]string{"example.com/a": "b"},
			StubPKCS10Request: r.Spec.StubPKCS10Request}
		if got := r.Spec.String(); got != want.String() || r.OwnerReferences[0].UID != "u" {
			t.Errorf("asked for %s\nwant %s", got, want.String())
		}
		s.issue("c1")
		key := s.holds(p, "c1")
		proof, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		if err != nil || proof.CheckSignature() != nil {
			t.Fatalf("%s: proof of possession: %v, %v", kind, err, proof.CheckSignature())
		}
		block, _ := pem.Decode([]byte(key))
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if public := parsed.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool }); !public.Equal(proof.PublicKey) {
			t.Errorf("%s: the key in the volume is not that of the request", kind)
		}
	}
}

func TestCertificatesAreRenewedWithNewKeys(t *testing.T) {
	s, p := newSigner(t), certified("ED25519")
	s.waits(p, errNotIssued.Error())
	s.issue("c1")
	first := s.holds(p, "c1")
	if _, next, _ := s.Mount(t.Context(), p); next.Before(s.now.Add(12*time.Hour)) || next.After(s.now.Add(12*time.Hour+maxJitter)) {
		t.Errorf("renewed after %v", next.Sub(s.now))
	}
	s.now = s.now.Add(12*time.Hour + maxJitter)
	s.refuse = errors.New("no masters")
	if s.holds(p, "c1") != first {
		t.Error("the key changed without its certificate")
	}
	s.refuse = nil
	if s.holds(p, "c1") != first || len(s.asked) != 2 {
		t.Errorf("%d requests, want 2, and the old key until the answer", len(s.asked))
	}
	s.now = s.now.Add(overdue)
	s.holds(p, "c1")
	s.now = s.now.Add(12 * time.Hour)
	s.holds(p, "c1")
	if want := []string{"CertificateOverdueForRefresh", "CertificateExpired"}; !slices.Equal(s.events, want) {
		t.Errorf("events %v, want %v", s.events, want)
	}
	s.issue("c2")
	if s.holds(p, "c2") == first {
		t.Error("the new certificate has the old key")
	}
}

func TestRefusalsAreFinal(t *testing.T) {
	for condition, told := range map[string]string{"Denied": "denied", "Failed": "failed"} {
		s, p := newSigner(t), certified("ED25519")
		s.waits(p, errNotIssued.Error())
		s.last().Status.Conditions = []metav1.Condition{{Type: condition, Status: "True", Reason: "R", Message: "no"}}
		s.waits(p, `PodCertificateRequest was permanently `+told+`: reason="R" message="no"`)
		s.now = s.now.Add(time.Hour)
		s.waits(p, told)
		if len(s.asked) != 1 || !slices.Equal(s.events, []string{condition}) {
			t.Errorf("%s: %d requests, events %v", condition, len(s.asked), s.events)
		}
	}
}

func TestADeletedRequestIsMadeAnew(t *testing.T) {
	s, p := newSigner(t), certified("ED25519")
	s.waits(p, errNotIssued.Error())
	clear(s.source.requests)
	s.waits(p, "not found")
	s.now = s.now.Add(requestLost + time.Second)
	s.waits(p, "appears to have been deleted")
	s.waits(p, errNotIssued.Error())
	s.issue("c1")
	s.holds(p, "c1")
	if len(s.asked) != 2 {
		t.Errorf("%d requests, want 2", len(s.asked))
	}
}

// The agent forgets keys when it restarts. The pod's files stay until there are new ones.
func TestCertificatesOutliveTheAgent(t *testing.T) {
	s, p := newSigner(t), certified("ED25519")
	s.waits(p, errNotIssued.Error())
	s.issue("c1")
	s.holds(p, "c1")
	s.credentials = map[string]*credential{}
	s.holds(p, "c1")
	s.issue("c2")
	s.holds(p, "c2")
	if err := s.Unmount(t.Context(), "u"); err != nil || len(s.credentials) != 0 {
		t.Errorf("%v; keys of %d sources are kept after the pod", err, len(s.credentials))
	}
}

func TestUnknownKeysAreRefused(t *testing.T) {
	s := newSigner(t)
	s.waits(certified("DSA"), `unknown key type "DSA"`)
}
