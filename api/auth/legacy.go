package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Tokens in Secrets of type kubernetes.io/service-account-token. They do not expire: they live as long as the Secret that
// holds them and the account, and count only while the Secret holds this very text.
const (
	legacyIssuer       = "kubernetes/serviceaccount"
	legacyInvalidSince = "kubernetes.io/legacy-token-invalid-since" // label by which an administrator ends one
)

// legacyClaims are what Kubernetes calls them.
type legacyClaims struct {
	Namespace   string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	Secret      string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	AccountName string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	AccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// Legacy makes the token that secret shall hold for account.
func (t *Tokens) Legacy(account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return t.sign(&claims{
		Claims: jwt.Claims{Issuer: legacyIssuer, Subject: serviceaccount.MakeUsername(account.Namespace, account.Name)},
		legacyClaims: legacyClaims{
			Namespace: account.Namespace, Secret: secret.Name, AccountName: account.Name, AccountUID: string(account.UID),
		},
	})
}

// form says what is wrong with the claims themselves.
func (l *legacyClaims) form(c *claims) error {
	switch {
	case l.Namespace == "" || l.Secret == "" || l.AccountName == "" || l.AccountUID == "":
		return errors.New("it names no service account and secret")
	case c.Subject != serviceaccount.MakeUsername(l.Namespace, l.AccountName):
		return errors.New("its subject is not the service account it names")
	}
	return nil
}

// hold checks that the Secret still holds this token and that the account is the one it was made for.
func (l *legacyClaims) hold(ctx context.Context, t *Tokens, token string) error {
	secret, found, err := lookup[*corev1.Secret](ctx, t.reader, secrets, l.Namespace, l.Secret)
	switch {
	case err != nil:
		return fmt.Errorf("reading secret %s/%s: %w", l.Namespace, l.Secret, err)
	case !found || secret.DeletionTimestamp != nil:
		return fmt.Errorf("it was kept in secret %s/%s, which no longer exists", l.Namespace, l.Secret)
	case subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1:
		return fmt.Errorf("secret %s/%s holds another token by now", l.Namespace, l.Secret)
	case secret.Labels[legacyInvalidSince] != "":
		return fmt.Errorf("the token in secret %s/%s has been marked invalid: use tokens from the TokenRequest API, or remove the label %s from the secret",
			l.Namespace, l.Secret, legacyInvalidSince)
	}
	account, found, err := lookup[*corev1.ServiceAccount](ctx, t.reader, serviceAccounts, l.Namespace, l.AccountName)
	switch {
	case err != nil:
		return fmt.Errorf("reading service account %s/%s: %w", l.Namespace, l.AccountName, err)
	case !found || account.DeletionTimestamp != nil:
		return fmt.Errorf("service account %s/%s no longer exists", l.Namespace, l.AccountName)
	case string(account.UID) != l.AccountUID:
		return fmt.Errorf("service account %s/%s of UID %s was replaced by another of that name", l.Namespace, l.AccountName, l.AccountUID)
	}
	return nil
}

func (l *legacyClaims) user() user.Info {
	info := serviceaccount.ServiceAccountInfo{Namespace: l.Namespace, Name: l.AccountName, UID: l.AccountUID}
	return authenticated(info.UserInfo())
}
