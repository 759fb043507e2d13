package volume

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// requestLost: a request that the watch does not show after this time was deleted.
	requestLost = time.Minute
	// renewalWatch is how often a renewal that nobody answers is looked at.
	renewalWatch = time.Minute
	// overdue: a certificate that has not been renewed this long after it should have been is worth an event.
	overdue = 10 * time.Minute
	// maxJitter keeps the pods of a node from renewing their certificates all at once.
	maxJitter = 5 * time.Minute
)

// credential is the state of one podCertificate source. It lives in memory only: an agent that starts anew asks for new ones, and
// the files of the old ones stay until those are there.
type credential struct {
	key, chain []byte // PEM; none before the first certificate is issued
	refresh    time.Time
	begin, end time.Time // when the signer wants it renewed, and its last moment

	// The request under way, if there is one, and its key.
	request string
	next    []byte
	asked   time.Time

	refused              error // nothing will be issued any more
	toldOverdue, toldEnd bool
}

// errNotIssued: the signer did not answer yet. The watch of the pod's requests wakes the pod when it does.
var errNotIssued = errors.New("credential bundle is not issued yet")

// certificate puts a key made here and its certificate in, as the signer issued it, and renews both in time.
func (c *content) certificate(src *v1.PodCertificateProjection, key string, mode int32) error {
	cred := c.m.credential(key)
	err := c.advance(cred, src)
	switch {
	case cred.refused != nil:
		return cred.refused
	case cred.chain == nil && err != nil:
		return unreadable{err}
	case cred.chain == nil:
		return unreadable{errNotIssued}
	case err != nil: // what was issued is good for a while
		c.again(c.m.now().Add(retryRefresh))
	case cred.request != "":
		c.again(c.m.now().Add(renewalWatch))
	default:
		c.again(cred.refresh)
	}
	c.warnOfAge(cred)
	for name, parts := range map[string][][]byte{
		src.CredentialBundlePath: {cred.key, cred.chain}, src.KeyPath: {cred.key}, src.CertificateChainPath: {cred.chain},
	} {
		if name == "" {
			continue
		}
		if err := c.addPrivate(name, bytes.Join(parts, nil), mode); err != nil {
			return err
		}
	}
	return nil
}

// again wants the content collected anew at the given time, or earlier.
func (c *content) again(at time.Time) {
	if c.next.IsZero() || at.Before(c.next) {
		c.next = at
	}
}

func (m *Manager) credential(key string) *credential {
	m.mu.Lock()
	defer m.mu.Unlock()
	cred := m.credentials[key]
	if cred == nil {
		cred = &credential{}
		m.credentials[key] = cred
	}
	return cred
}

// advance takes the answer to the request under way, if there is one, and makes a request when one is due.
func (c *content) advance(cred *credential, src *v1.PodCertificateProjection) error {
	if cred.refused != nil {
		return nil
	}
	if cred.request != "" {
		return c.answer(cred)
	}
	if cred.chain != nil && c.m.now().Before(cred.refresh) {
		return nil
	}
	return c.ask(cred, src)
}

// answer looks at the request under way.
func (c *content) answer(cred *credential) error {
	request, err := c.m.Objects.CertificateRequest(c.ctx, c.pod, cred.request)
	if err != nil {
		if apierrors.IsNotFound(err) && c.m.now().After(cred.asked.Add(requestLost)) {
			err = fmt.Errorf("PodCertificateRequest %q appears to have been deleted", c.pod.Namespace+"/"+cred.request)
			cred.request, cred.next = "", nil
		}
		return err
	}
	for i := range request.Status.Conditions {
		condition := &request.Status.Conditions[i]
		switch condition.Type {
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			c.refuse(cred, request, condition, "denied", "was denied")
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			c.refuse(cred, request, condition, "failed", "failed")
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			take(cred, &request.Status)
		}
	}
	return nil
}

func (c *content) refuse(cred *credential, r *certificatesv1.PodCertificateRequest, why *metav1.Condition, how, told string) {
	cred.refused = fmt.Errorf("PodCertificateRequest was permanently %s: reason=%q message=%q", how, why.Reason, why.Message)
	cred.request, cred.next = "", nil
	c.warn(why.Type, fmt.Sprintf("PodCertificateRequest %s/%s %s, reason=%q, message=%q", r.Namespace, r.Name, told, why.Reason, why.Message))
}

// take makes the certificate that was issued the current one. Validation saw to it that the status is whole.
func take(cred *credential, s *certificatesv1.PodCertificateRequestStatus) {
	issued := credential{key: cred.next, chain: certificates(s.CertificateChain)}
	if s.BeginRefreshAt != nil && s.NotAfter != nil {
		issued.begin, issued.end = s.BeginRefreshAt.Time, s.NotAfter.Time
	}
	issued.refresh = issued.begin
	if room := min(maxJitter, issued.end.Sub(issued.begin)/2); room > 0 {
		issued.refresh = issued.begin.Add(rand.N(room))
	}
	*cred = issued
}

// certificates drops what lies between the blocks, and their headers.
func certificates(chain string) []byte {
	var out []byte
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})...)
	}
	return out
}

// ask makes a key and requests a certificate for it.
func (c *content) ask(cred *credential, src *v1.PodCertificateProjection) error {
	pod := c.pod
	account, err := c.m.Client.CoreV1().ServiceAccounts(pod.Namespace).Get(c.ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("while fetching service account: %w", err)
	}
	node, err := c.m.NodeUID()
	if err != nil {
		return fmt.Errorf("while getting the node's UID: %w", err)
	}
	key, proof, err := newKey(src.KeyType)
	if err != nil {
		return fmt.Errorf("while generating keypair: %w", err)
	}
	request := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: src.SignerName, PodName: pod.Name, PodUID: pod.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID, NodeName: types.NodeName(pod.Spec.NodeName), NodeUID: node,
			MaxExpirationSeconds: src.MaxExpirationSeconds, StubPKCS10Request: proof, UnverifiedUserAnnotations: src.UserAnnotations,
		},
	}
	made, err := c.m.Client.CertificatesV1().PodCertificateRequests(pod.Namespace).Create(c.ctx, request, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("while creating PodCertificateRequest: %w", err)
	}
	cred.request, cred.next, cred.asked = made.Name, key, c.m.now()
	return nil
}

// warnOfAge tells once that a certificate should have been renewed, and once that it is of no use any more.
func (c *content) warnOfAge(cred *credential) {
	now := c.m.now()
	if !cred.toldOverdue && now.After(cred.begin.Add(overdue)) {
		cred.toldOverdue = true
		c.warn("CertificateOverdueForRefresh", "PodCertificate refresh overdue")
	}
	if !cred.toldEnd && now.After(cred.end) {
		cred.toldEnd = true
		c.warn("CertificateExpired", "PodCertificate expired")
	}
}

func (c *content) warn(reason, message string) {
	if c.m.Warn != nil {
		c.m.Warn(c.pod, reason, message)
	}
}
