package resource

import (
	"context"
	"crypto/tls"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

func configMap() *Kind {
	k := row[corev1.ConfigMap, corev1.ConfigMapList](corev1.SchemeGroupVersion, "ConfigMap", "configmaps", "cm")
	k.Rules = Rules{Validate: validating(checked(validateConfigMap))}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]), ageColumn()}
	k.Cells = printing(func(c *corev1.ConfigMap, now time.Time) []any {
		return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), age(c.CreationTimestamp, now)}
	})
	return k
}

func secret() *Kind {
	k := row[corev1.Secret, corev1.SecretList](corev1.SchemeGroupVersion, "Secret", "secrets")
	k.Default = defaulting(func(s *corev1.Secret) { setDefault(&s.Type, corev1.SecretTypeOpaque) })
	k.Rules = Rules{
		Prepare:  preparing(mergeStringData),
		Validate: validating(checked(validateSecret)),
		Warn: func(_ context.Context, obj, _ runtime.Object) []string {
			s := as[corev1.Secret](obj)
			if s.Type != corev1.SecretTypeTLS {
				return nil
			}
			if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
				return []string{err.Error()}
			}
			return nil
		},
	}
	k.Fields = reading(func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} })
	doc := corev1.Secret{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("Type", doc["type"]), text("Data", doc["data"]), ageColumn()}
	k.Cells = printing(func(s *corev1.Secret, now time.Time) []any {
		return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s.CreationTimestamp, now)}
	})
	return k
}

// mergeStringData moves the write-only stringData into data.
func mergeStringData(s, _ *corev1.Secret) {
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func serviceAccount() *Kind {
	k := row[corev1.ServiceAccount, corev1.ServiceAccountList](corev1.SchemeGroupVersion, "ServiceAccount", "serviceaccounts", "sa")
	k.Rules = Rules{
		Prepare: preparing(func(sa, _ *corev1.ServiceAccount) {
			// Only the names count: the secrets are in the account's namespace.
			for i := range sa.Secrets {
				sa.Secrets[i] = corev1.ObjectReference{Name: sa.Secrets[i].Name}
			}
		}),
		Validate: validating(checked(validateServiceAccount)),
		Warn: func(_ context.Context, obj, old runtime.Object) []string {
			const key = "kubernetes.io/enforce-mountable-secrets"
			if _, has := as[corev1.ServiceAccount](obj).Annotations[key]; !has {
				return nil
			}
			if old != nil {
				if _, had := as[corev1.ServiceAccount](old).Annotations[key]; had {
					return nil
				}
			}
			return []string{"metadata.annotations[" + key + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
		},
	}
	k.Subresources = []Subresource{{Name: "token", Kind: tokenRequestKind, Verbs: []string{"create"}}}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), ageColumn()}
	k.Cells = printing(func(sa *corev1.ServiceAccount, now time.Time) []any {
		return []any{sa.Name, age(sa.CreationTimestamp, now)}
	})
	return k
}
