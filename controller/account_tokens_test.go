package controller

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

func tokenSecret(name, account string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account}}, Type: corev1.SecretTypeServiceAccountToken}
}

func TestSecretsOfAccountsAreFilledAndEndWithThem(t *testing.T) {
	c := newCluster(t)
	defer c.lead(func(cfg *Config) {
		cfg.RootCA = []byte("ca")
		cfg.AccountToken = func(a *corev1.ServiceAccount, s *corev1.Secret) (string, error) {
			return "token of " + a.Name + " in " + s.Name, nil
		}
	})()
	ctx := t.Context()
	secrets, accounts := c.Client.CoreV1().Secrets("default"), c.Client.CoreV1().ServiceAccounts("default")
	account, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}, Secrets: []corev1.ObjectReference{{Name: "kept"}, {Name: "other"}}}, metav1.CreateOptions{})
	c.must(account, err)
	for _, name := range []string{"kept", "second"} {
		c.must(secrets.Create(ctx, tokenSecret(name, "robot"), metav1.CreateOptions{}))
	}
	c.must(secrets.Create(ctx, tokenSecret("lost", "nobody"), metav1.CreateOptions{}))
	c.must(secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}))
	filled := func() error {
		s, err := secrets.Get(ctx, "kept", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if string(s.Data["token"]) != "token of robot in kept" || string(s.Data["ca.crt"]) != "ca" || string(s.Data["namespace"]) != "default" ||
			s.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	}
	absent := func(name string) func() error {
		return func() error {
			_, err := secrets.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(errors.New(name+" is still there"), err)
		}
	}
	c.eventually("the secret is filled", filled)
	c.eventually("a secret without an account goes", absent("lost"))
	s, err := secrets.Get(ctx, "kept", metav1.GetOptions{})
	c.must(s, err)
	delete(s.Data, "token")
	c.must(secrets.Update(ctx, s, metav1.UpdateOptions{}))
	c.eventually("the token is made again", filled)

	c.must(nil, secrets.Delete(ctx, "kept", metav1.DeleteOptions{}))
	c.eventually("the account forgets the secret", func() error {
		a, err := accounts.Get(ctx, "robot", metav1.GetOptions{})
		if err == nil && (len(a.Secrets) != 1 || a.Secrets[0].Name != "other") {
			err = fmt.Errorf("it has %v", a.Secrets)
		}
		return err
	})
	c.must(nil, accounts.Delete(ctx, "robot", metav1.DeleteOptions{}))
	c.eventually("the secret goes with its account", absent("second"))
	c.must(secrets.Get(ctx, "other", metav1.GetOptions{}))
}

func TestBootstrapTokensAreRemovedInTime(t *testing.T) {
	c := newCluster(t)
	defer c.lead()()
	ctx, secrets := t.Context(), c.Client.CoreV1().Secrets("kube-system")
	for name, end := range map[string]string{
		"past": time.Now().Add(-time.Hour).Format(time.RFC3339), "soon": time.Now().Add(time.Second).Format(time.RFC3339),
		"later": time.Now().Add(time.Hour).Format(time.RFC3339), "never": "", "unreadable": "soon",
	} {
		data := map[string][]byte{}
		if end != "" {
			data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(end)
		}
		c.must(secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: bootstrapapi.SecretTypeBootstrapToken, Data: data}, metav1.CreateOptions{}))
	}
	c.eventually("what expired is gone", func() error {
		list, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken)})
		if err != nil {
			return err
		}
		var names []string
		for _, s := range list.Items {
			names = append(names, s.Name)
		}
		if fmt.Sprint(names) != "[later never]" {
			return fmt.Errorf("there are %v", names)
		}
		return nil
	})
}
