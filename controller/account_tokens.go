package controller

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"
)

// byAccount is the index of the Secrets that hold a service account's token, by "namespace/account".
const byAccount = "mgr/account"

func indexByAccount(obj any) ([]string, error) {
	if s, ok := obj.(*corev1.Secret); ok && s.Type == corev1.SecretTypeServiceAccountToken {
		return []string{s.Namespace + "/" + s.Annotations[corev1.ServiceAccountNameKey]}, nil
	}
	return nil, nil
}

// accountTokens fills Secrets of type kubernetes.io/service-account-token and removes those whose account is gone. Such
// Secrets are made by hand: nobody makes one for each account any more.
type accountTokens struct {
	client   kubernetes.Interface
	secrets  corev1listers.SecretLister
	accounts corev1listers.ServiceAccountLister
	token    func(*corev1.ServiceAccount, *corev1.Secret) (string, error)
	ca       []byte
}

func newAccountTokens(f informers.SharedInformerFactory, client kubernetes.Interface, token func(*corev1.ServiceAccount, *corev1.Secret) (string, error), ca []byte) Controller {
	secrets, accounts := f.Core().V1().Secrets(), f.Core().V1().ServiceAccounts()
	c := &accountTokens{client: client, secrets: secrets.Lister(), accounts: accounts.Lister(), token: token, ca: ca}
	return Controller{
		Name: "service-account-tokens",
		Inputs: []Input{
			{Informer: secrets.Informer(), Keys: secretsOfType(corev1.SecretTypeServiceAccountToken)},
			{Informer: accounts.Informer(), Keys: func(old, new any) []string {
				if new == nil {
					new = old
				}
				account, ok := new.(*corev1.ServiceAccount)
				if !ok {
					return nil
				}
				keys, err := secrets.Informer().GetIndexer().IndexKeys(byAccount, account.Namespace+"/"+account.Name)
				if err != nil {
					return nil
				}
				return keys
			}},
		},
		Outputs: []Output{
			{Resource: "secrets", Scope: "of service accounts"},
			{Resource: "serviceaccounts", Field: "secrets"},
		},
		Reconcile: c.reconcile,
	}
}

// secretsOfType is the key of Secrets of one type; others concern nobody.
func secretsOfType(t corev1.SecretType) func(old, new any) []string {
	return func(old, new any) []string {
		for _, o := range []any{new, old} {
			if s, ok := o.(*corev1.Secret); ok && s.Type == t {
				return []string{s.Namespace + "/" + s.Name}
			}
		}
		return nil
	}
}

func (c *accountTokens) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	secret, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return c.forget(ctx, namespace, name)
	}
	if err != nil || secret.Type != corev1.SecretTypeServiceAccountToken || secret.DeletionTimestamp != nil {
		return err
	}
	account, err := c.account(ctx, secret)
	if err != nil {
		return err
	}
	if account == nil {
		return deleteSecret(ctx, c.client, secret)
	}
	return c.fill(ctx, account, secret)
}

// account is the one the Secret names, nil when there is none, or another of its name. Before it says so it asks the API: the
// cache may be behind.
func (c *accountTokens) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	name, uid := secret.Annotations[corev1.ServiceAccountNameKey], types.UID(secret.Annotations[corev1.ServiceAccountUIDKey])
	if name == "" {
		return nil, nil
	}
	account, err := c.accounts.ServiceAccounts(secret.Namespace).Get(name)
	if err == nil && (uid == "" || account.UID == uid) {
		return account, nil
	}
	account, err = c.client.CoreV1().ServiceAccounts(secret.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the service account of secret %s/%s: %w", secret.Namespace, secret.Name, err)
	case uid != "" && account.UID != uid:
		return nil, nil
	}
	return account, nil
}

// fill writes what the Secret lacks.
func (c *accountTokens) fill(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	hasCA := len(c.ca) == 0 || bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], c.ca)
	hasToken, hasNamespace := len(secret.Data[corev1.ServiceAccountTokenKey]) > 0, len(secret.Data[corev1.ServiceAccountNamespaceKey]) > 0
	if hasCA && hasToken && hasNamespace {
		return nil
	}
	next := secret.DeepCopy()
	if next.Data == nil {
		next.Data = map[string][]byte{}
	}
	if !hasCA {
		next.Data[corev1.ServiceAccountRootCAKey] = c.ca
	}
	if !hasNamespace {
		next.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	}
	if !hasToken {
		token, err := c.token(account, secret)
		if err != nil {
			return fmt.Errorf("make a token for service account %s/%s: %w", account.Namespace, account.Name, err)
		}
		next.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ServiceAccountNameKey, account.Name)
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ServiceAccountUIDKey, string(account.UID))
	_, err := c.client.CoreV1().Secrets(secret.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	return gone(err, "fill secret %s/%s", secret.Namespace, secret.Name)
}

// forget takes a token's Secret that was deleted out of the accounts that mention it.
func (c *accountTokens) forget(ctx context.Context, namespace, name string) error {
	accounts, err := c.client.CoreV1().ServiceAccounts(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list the service accounts of %s: %w", namespace, err)
	}
	for i := range accounts.Items {
		account := &accounts.Items[i]
		mentions := func(r corev1.ObjectReference) bool { return r.Name == name }
		if !slices.ContainsFunc(account.Secrets, mentions) {
			continue
		}
		account.Secrets = slices.DeleteFunc(account.Secrets, mentions)
		_, err := c.client.CoreV1().ServiceAccounts(namespace).Update(ctx, account, metav1.UpdateOptions{})
		if err := gone(err, "forget secret %s in service account %s/%s", name, namespace, account.Name); err != nil {
			return err
		}
	}
	return nil
}

// deleteSecret removes this very Secret; a conflict says that another has the name by now.
func deleteSecret(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	err := client.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
	if apierrors.IsConflict(err) {
		return nil
	}
	return gone(err, "delete secret %s/%s", s.Namespace, s.Name)
}

// newBootstrapTokens makes the loop that removes bootstrap tokens at the end of their time.
func newBootstrapTokens(f informers.SharedInformerFactory, client kubernetes.Interface) Controller {
	secrets := f.Core().V1().Secrets()
	keys := secretsOfType(bootstrapapi.SecretTypeBootstrapToken)
	return Controller{
		Name: "bootstrap-tokens",
		Inputs: []Input{{Informer: secrets.Informer(), Keys: func(old, new any) []string {
			if o, ok := new.(metav1.Object); !ok || o.GetNamespace() != metav1.NamespaceSystem {
				return nil
			}
			return keys(old, new)
		}}},
		Outputs: []Output{{Resource: "secrets", Scope: "of bootstrap tokens"}},
		Reconcile: func(ctx context.Context, key string) error {
			_, name, err := cache.SplitMetaNamespaceKey(key)
			if err != nil {
				return err
			}
			secret, err := secrets.Lister().Secrets(metav1.NamespaceSystem).Get(name)
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil || secret.Type != bootstrapapi.SecretTypeBootstrapToken {
				return err
			}
			left, expired := bootstrapsecrets.GetExpiration(secret, time.Now())
			switch {
			case expired:
				return deleteSecret(ctx, client, secret)
			case left > 0:
				return Again(left)
			}
			return nil
		},
	}
}
