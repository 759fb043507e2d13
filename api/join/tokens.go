package join

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"mgr/api/auth"
	"mgr/pki"
	"mgr/pki/enroll"
)

// How a token is kept: a Secret of this type and name in kube-system. The secret part is there only as a hash.
const (
	namespace   = metav1.NamespaceSystem
	tokenType   = corev1.SecretType("mgr.dev/join-token")
	tokenPrefix = "mgr-token-"

	tokenHash        = "hash"
	tokenRole        = "role"
	tokenExpires     = "expires" // RFC 3339
	tokenDescription = "description"
)

const (
	defaultTTL = 24 * time.Hour
	maxTTL     = 365 * 24 * time.Hour
)

var secrets = schema.GroupResource{Resource: "secrets"}

// Tokens manages join tokens.
type Tokens struct {
	reader  auth.Reader
	catchUp auth.CatchUp
	client  func() kubernetes.Interface
	trust   pki.Trust
	now     func() time.Time
}

// Create makes a token and keeps its hash; the answer is the only place where its text ever is. Expired tokens are
// cleared away on the occasion.
func (t *Tokens) Create(ctx context.Context, in enroll.TokenRequest) (*enroll.TokenInfo, error) {
	ttl := time.Duration(in.TTLSeconds) * time.Second
	if in.TTLSeconds == 0 {
		ttl = defaultTTL
	}
	if in.TTLSeconds < 0 || ttl > maxTTL || in.TTLSeconds > int64(maxTTL/time.Second) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("ttlSeconds must be between 1 and %d (one year)", int64(maxTTL/time.Second)))
	}
	token, err := pki.NewToken(in.Role, t.trust)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := t.clearExpired(ctx); err != nil {
		return nil, err
	}
	expires := t.now().Add(ttl).UTC().Truncate(time.Second).Format(time.RFC3339)
	_, err = t.client().CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: tokenPrefix + token.ID, Namespace: namespace},
		Type:       tokenType,
		Data: map[string][]byte{tokenHash: []byte(token.Hash()), tokenRole: []byte(token.Role),
			tokenExpires: []byte(expires), tokenDescription: []byte(in.Description)},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("keeping the join token: %w", err)
	}
	return &enroll.TokenInfo{ID: token.ID, Role: token.Role, Expires: expires, Description: in.Description, Token: token.Text()}, nil
}

// Check returns the token that text is, if it is one of this cluster's, has not expired and allows to become want. A
// server token also makes agents. Errors are 400, 401 and 403.
func (t *Tokens) Check(ctx context.Context, text string, want pki.Role) (pki.Token, error) {
	token, err := pki.ParseToken(text)
	if err != nil {
		return pki.Token{}, apierrors.NewBadRequest(err.Error())
	}
	if token.CAHash != t.trust.Hash() {
		return pki.Token{}, invalidToken("it was made by a cluster with another CA")
	}
	record, err := t.record(ctx, token.ID)
	if err != nil {
		return pki.Token{}, err
	}
	if record == nil || !token.Matches(string(record.Data[tokenHash])) {
		return pki.Token{}, invalidToken("this cluster does not know it; was it deleted?")
	}
	if expires, ok := expiry(record); !ok || !t.now().Before(expires) {
		return pki.Token{}, invalidToken(fmt.Sprintf("it expired at %s; make a new one with \"mgr token create\"", record.Data[tokenExpires]))
	}
	if role := pki.Role(record.Data[tokenRole]); role != want && role != pki.RoleServer {
		return pki.Token{}, forbidden("an agent token cannot make a master: make a token for one with \"mgr token create --role server\"")
	}
	return token, nil
}

// record reads a token's Secret, after catching up when this peer does not know it; nil when there is none.
func (t *Tokens) record(ctx context.Context, id string) (*corev1.Secret, error) {
	obj, err := t.reader.Get(ctx, secrets, namespace, tokenPrefix+id)
	if apierrors.IsNotFound(err) && t.catchUp != nil {
		if err := t.catchUp(ctx); err != nil {
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("join tokens cannot be checked now: %v", err))
		}
		obj, err = t.reader.Get(ctx, secrets, namespace, tokenPrefix+id)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	secret, ok := obj.(*corev1.Secret)
	if !ok || secret.Type != tokenType {
		return nil, nil
	}
	return secret, nil
}

// List describes the tokens that have not expired, without their secrets.
func (t *Tokens) List(ctx context.Context) ([]enroll.TokenInfo, error) {
	records, err := t.records(ctx)
	if err != nil {
		return nil, err
	}
	infos := []enroll.TokenInfo{}
	for _, r := range records {
		if expires, ok := expiry(r); !ok || !t.now().Before(expires) {
			continue
		}
		infos = append(infos, enroll.TokenInfo{ID: strings.TrimPrefix(r.Name, tokenPrefix), Role: pki.Role(r.Data[tokenRole]),
			Expires: string(r.Data[tokenExpires]), Description: string(r.Data[tokenDescription])})
	}
	slices.SortFunc(infos, func(a, b enroll.TokenInfo) int { return strings.Compare(a.Expires+a.ID, b.Expires+b.ID) })
	return infos, nil
}

// Delete makes a token useless at once.
func (t *Tokens) Delete(ctx context.Context, id string) error {
	if !pki.ValidTokenID(id) {
		return apierrors.NewBadRequest(fmt.Sprintf("%q is not the id of a join token: want 8 characters of a-z and 2-7", id))
	}
	err := t.client().CoreV1().Secrets(namespace).Delete(ctx, tokenPrefix+id, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "join tokens"}, id)
	}
	return err
}

func (t *Tokens) clearExpired(ctx context.Context) error {
	records, err := t.records(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if expires, ok := expiry(r); ok && t.now().Before(expires) {
			continue
		}
		err := t.client().CoreV1().Secrets(namespace).Delete(ctx, r.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("clearing away the expired join token %s: %w", r.Name, err)
		}
	}
	return nil
}

func (t *Tokens) records(ctx context.Context) ([]*corev1.Secret, error) {
	list, err := t.reader.List(ctx, secrets, namespace)
	if err != nil {
		return nil, fmt.Errorf("listing join tokens: %w", err)
	}
	var records []*corev1.Secret
	for _, obj := range list {
		if s, ok := obj.(*corev1.Secret); ok && s.Type == tokenType && strings.HasPrefix(s.Name, tokenPrefix) {
			records = append(records, s)
		}
	}
	return records, nil
}

func expiry(record *corev1.Secret) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, string(record.Data[tokenExpires]))
	return t, err == nil
}

func invalidToken(why string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnauthorized,
		Reason: metav1.StatusReasonUnauthorized, Message: "token is not valid: " + why}}
}
