package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/pki"
)

// Paths of the documents by which others verify tokens (OpenID Connect Discovery 1.0).
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	JWKSPath      = "/openid/v1/jwks"
)

// verifiedTokens bounds the memory of signatures already checked; a check costs more than all else in a small request.
const verifiedTokens = 4096

// verifiedFor is how long a checked signature is remembered.
const verifiedFor = 10 * time.Minute

// Tokens issues and verifies service-account tokens (JWT, ES256).
type Tokens struct {
	reader   Reader
	catchUp  CatchUp
	issuer   string
	key      jose.JSONWebKey // public
	signer   jose.Signer
	now      func() time.Time
	verified *cache.LRUExpireCache // sha256(token) → *claims; whether they still hold is asked every time
}

// claims is the payload of a token. Names are Kubernetes'.
type claims struct {
	jwt.Claims
	legacyClaims                // of the issuer legacyIssuer only
	Private      *privateClaims `json:"kubernetes.io,omitempty"` // of all others
}

type privateClaims struct {
	Namespace      string `json:"namespace,omitempty"`
	ServiceAccount ref    `json:"serviceaccount"`
	Pod            *ref   `json:"pod,omitempty"`
	Secret         *ref   `json:"secret,omitempty"`
	Node           *ref   `json:"node,omitempty"`
}

// ref names the object a token is bound to, this very one and no successor of the same name.
type ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

func newTokens(c Config) (*Tokens, error) {
	if c.Issuer == "" {
		return nil, errors.New("service-account tokens need an issuer")
	}
	keyID, err := pki.KeyHash(c.SigningKey.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256,
		Key: jose.JSONWebKey{Key: c.SigningKey, KeyID: keyID, Algorithm: string(jose.ES256), Use: "sig"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("service-account signing key: %w", err)
	}
	return &Tokens{
		reader: c.Reader, catchUp: c.CatchUp, issuer: c.Issuer, signer: signer, now: c.Now,
		key:      jose.JSONWebKey{Key: publicKey(c.SigningKey), KeyID: keyID, Algorithm: string(jose.ES256), Use: "sig"},
		verified: cache.NewLRUExpireCache(verifiedTokens),
	}, nil
}

func publicKey(k *ecdsa.PrivateKey) *ecdsa.PublicKey { return &k.PublicKey }

// Audiences are those of the API server itself: a token must be made for one of them to be accepted here.
func (t *Tokens) Audiences() authenticator.Audiences { return authenticator.Audiences{t.issuer} }

// JWKS is the document at JWKSPath.
func (t *Tokens) JWKS() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{t.key}})
}

// Discovery is the document at DiscoveryPath.
func (t *Tokens) Discovery() ([]byte, error) {
	return json.Marshal(map[string]any{
		"issuer":                                t.issuer,
		"jwks_uri":                              t.issuer + JWKSPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	})
}

// AuthenticateToken verifies a token for the audiences of ctx, by default the API server's. The error says what is
// wrong with it.
func (t *Tokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	c, err := t.verify(token)
	if err != nil {
		return nil, false, err
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = t.Audiences()
	}
	given := authenticator.Audiences(c.Audience)
	if c.Private == nil {
		given = t.Audiences() // what a Secret keeps is for the API server
	}
	audiences := wanted.Intersect(given)
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("it was issued for the audiences %q, not for %q", []string(given), []string(wanted))
	}
	if c.Private == nil {
		if err := t.catchUp.confirm(ctx, func() error { return c.hold(ctx, t, token) }); err != nil {
			return nil, false, err
		}
		return &authenticator.Response{User: c.legacyClaims.user(), Audiences: audiences}, true, nil
	}
	if err := t.checkTime(c); err != nil {
		return nil, false, err
	}
	if err := t.catchUp.confirm(ctx, func() error { return t.checkBound(ctx, c.Private) }); err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: c.user(), Audiences: audiences}, true, nil
}

// verify checks form, signature and issuer: what never changes for a given token.
func (t *Tokens) verify(token string) (*claims, error) {
	sum := sha256.Sum256([]byte(token))
	if c, ok := t.verified.Get(sum); ok {
		return c.(*claims), nil
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, errors.New("it is not a signed token (JWT, ES256)")
	}
	c := &claims{}
	if err := parsed.Claims(t.key.Key, c); err != nil {
		return nil, errors.New("its signature is not this cluster's")
	}
	if err := t.form(c); err != nil {
		return nil, err
	}
	t.verified.Add(sum, c, verifiedFor)
	return c, nil
}

// form says what is wrong with claims that this cluster signed.
func (t *Tokens) form(c *claims) error {
	if c.Issuer == legacyIssuer {
		c.Private = nil
		return c.legacyClaims.form(c)
	}
	p := c.Private
	switch {
	case c.Issuer != t.issuer:
		return fmt.Errorf("it was issued by %q, not by %q", c.Issuer, t.issuer)
	case c.Expiry == nil:
		return errors.New("it has no expiry")
	case p == nil || p.Namespace == "" || p.ServiceAccount.Name == "" || p.ServiceAccount.UID == "":
		return errors.New("it names no service account")
	case c.Subject != serviceaccount.MakeUsername(p.Namespace, p.ServiceAccount.Name):
		return errors.New("its subject is not the service account it names")
	}
	return nil
}

func (t *Tokens) checkTime(c *claims) error {
	now := t.now()
	if exp := c.Expiry.Time(); !now.Before(exp) {
		return fmt.Errorf("it expired at %s", exp.UTC().Format(time.RFC3339))
	}
	if c.NotBefore != nil && now.Add(clockLeeway).Before(c.NotBefore.Time()) {
		return fmt.Errorf("it is not valid before %s: compare the clocks", c.NotBefore.Time().UTC().Format(time.RFC3339))
	}
	return nil
}

// clockLeeway is how far masters' clocks may be apart.
const clockLeeway = time.Minute

func (c *claims) user() user.Info {
	p := c.Private
	info := &serviceaccount.ServiceAccountInfo{Namespace: p.Namespace, Name: p.ServiceAccount.Name, UID: p.ServiceAccount.UID}
	if c.ID != "" {
		info.CredentialID = "JTI=" + c.ID
	}
	if p.Pod != nil {
		info.PodName, info.PodUID = p.Pod.Name, p.Pod.UID
	}
	if p.Node != nil {
		info.NodeName, info.NodeUID = p.Node.Name, p.Node.UID
	}
	return authenticated(info.UserInfo())
}

// authenticated is u with the group of all who proved who they are.
func authenticated(u user.Info) user.Info {
	return &user.DefaultInfo{Name: u.GetName(), UID: u.GetUID(), Groups: withAuthenticated(u.GetGroups()), Extra: u.GetExtra()}
}

// sign makes the token's text.
func (t *Tokens) sign(c *claims) (string, error) {
	text, err := jwt.Signed(t.signer).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("signing a service-account token: %w", err)
	}
	return text, nil
}
