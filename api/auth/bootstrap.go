package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"
)

// bootstrapTokens authenticates machines that are not members yet by Secrets of type bootstrap.kubernetes.io/token in
// kube-system, as kubeadm makes them. Such a token says system:bootstrap:<id> and nothing that anybody may do.
type bootstrapTokens struct {
	reader  Reader
	catchUp CatchUp
	api     authenticator.Audiences // the API server's: the tokens are for nobody else
	now     func() time.Time
}

// Sizes of "abcdef.0123456789abcdef".
const (
	bootstrapIDSize    = 6
	bootstrapTokenSize = bootstrapIDSize + 1 + 16
)

// looksLikeBootstrap tells a bootstrap token from other bearer tokens; a JWT has two dots.
func looksLikeBootstrap(token string) bool {
	return len(token) == bootstrapTokenSize && bootstraputil.IsValidBootstrapToken(token)
}

// AuthenticateToken implements authenticator.Token for tokens for which looksLikeBootstrap holds.
func (b *bootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	audiences := b.api
	if wanted, ok := authenticator.AudiencesFrom(ctx); ok {
		if audiences = wanted.Intersect(b.api); len(audiences) == 0 {
			return nil, false, fmt.Errorf("it is a bootstrap token, which is not for %q", []string(wanted))
		}
	}
	id, secret, _ := strings.Cut(token, ".")
	var who *user.DefaultInfo
	err := b.catchUp.confirm(ctx, func() (err error) {
		who, err = b.check(ctx, id, secret)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: who, Audiences: audiences}, true, nil
}

// errNoBootstrap does not say whether the id exists.
var errNoBootstrap = errors.New("it is not a bootstrap token of this cluster")

func (b *bootstrapTokens) check(ctx context.Context, id, secret string) (*user.DefaultInfo, error) {
	s, found, err := lookup[*corev1.Secret](ctx, b.reader, secrets, metav1.NamespaceSystem, bootstraputil.BootstrapTokenSecretName(id))
	if err != nil {
		return nil, fmt.Errorf("reading the bootstrap token: %w", err)
	}
	if !found || s.DeletionTimestamp != nil || s.Type != bootstrapapi.SecretTypeBootstrapToken || string(s.Data[bootstrapapi.BootstrapTokenIDKey]) != id ||
		subtle.ConstantTimeCompare(s.Data[bootstrapapi.BootstrapTokenSecretKey], []byte(secret)) != 1 {
		return nil, errNoBootstrap
	}
	if bootstrapsecrets.HasExpired(s, b.now()) {
		return nil, fmt.Errorf("the bootstrap token %s expired at %s", id, s.Data[bootstrapapi.BootstrapTokenExpirationKey])
	}
	if string(s.Data[bootstrapapi.BootstrapTokenUsageAuthentication]) != "true" {
		return nil, fmt.Errorf("the bootstrap token %s is not for authentication (%s)", id, bootstrapapi.BootstrapTokenUsageAuthentication)
	}
	groups, err := bootstrapsecrets.GetGroups(s)
	if err != nil {
		return nil, fmt.Errorf("the bootstrap token %s: %w", id, err)
	}
	return &user.DefaultInfo{Name: bootstrapapi.BootstrapUserPrefix + id, Groups: withAuthenticated(groups)}, nil
}
