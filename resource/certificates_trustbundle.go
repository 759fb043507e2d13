package resource

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// clusterTrustBundle (KEP-3257): roots of trust for all namespaces, of a signer or of nobody in particular.
func clusterTrustBundle() *Kind {
	k := row[certificatesv1.ClusterTrustBundle, certificatesv1.ClusterTrustBundleList](
		certificatesv1.SchemeGroupVersion, "ClusterTrustBundle", "clustertrustbundles")
	k.Namespaced, k.UnconditionalUpdate = false, false
	k.Rules = Rules{Validate: validating(checked(validateTrustBundle))}
	k.Fields = reading(func(b *certificatesv1.ClusterTrustBundle) fields.Set {
		return fields.Set{"spec.signerName": b.Spec.SignerName}
	})
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("SignerName", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
	}
	k.Cells = printing(func(b *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
		return []any{b.Name, or(b.Spec.SignerName, none)}
	})
	return k
}

func validateTrustBundle(f *findings, b, old *certificatesv1.ClusterTrustBundle) {
	path := field.NewPath("spec")
	metadataAnew(f, b, old, false, trustBundleName(b.Spec.SignerName))
	if b.Spec.SignerName != "" {
		f.signerName(path.Child("signerName"), b.Spec.SignerName)
	}
	// What was once accepted is not parsed again: parsers change.
	if old == nil || old.Spec.TrustBundle != b.Spec.TrustBundle {
		f.trustAnchors(path.Child("trustBundle"), b.Spec.TrustBundle)
	}
	if old != nil {
		f.immutable(path.Child("signerName"), b.Spec.SignerName, old.Spec.SignerName)
	}
}

// trustBundleName: the bundle of a signer "example.com/x" is named "example.com:x:…", so that names say whose they are.
func trustBundleName(signer string) apivalidation.ValidateNameFunc {
	return func(name string, generated bool) []string {
		if signer == "" {
			if strings.Contains(name, ":") {
				return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
			}
			return apivalidation.NameIsDNSSubdomain(name, generated)
		}
		prefix := strings.ReplaceAll(signer, "/", ":") + ":"
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
		}
		return apivalidation.NameIsDNSSubdomain(rest, generated)
	}
}

// maxTrustBundle is in bytes.
const maxTrustBundle = 1 << 20

// trustAnchors wants CA certificates, at least one and each once, and nothing that a reader of PEM could take for something else.
func (f *findings) trustAnchors(path *field.Path, bundle string) {
	if len(bundle) > maxTrustBundle {
		f.add(field.TooLong(path, "", maxTrustBundle))
		return
	}
	const omitted = "<value omitted>"
	before := len(f.list)
	entries := map[string][]int{}
	var order []string
	block, rest := pem.Decode([]byte(bundle))
	for i := 0; block != nil; i++ {
		if fault := anchorFault(block); fault != "" {
			f.invalid(path, omitted, fmt.Sprintf("entry %d %s", i, fault))
		} else {
			der := string(block.Bytes)
			if entries[der] == nil {
				order = append(order, der)
			}
			entries[der] = append(entries[der], i)
		}
		block, rest = pem.Decode(rest)
	}
	if len(f.list) > before {
		return
	}
	if len(order) == 0 {
		f.invalid(path, omitted, "at least one trust anchor must be provided")
	}
	for _, der := range order {
		if at := entries[der]; len(at) > 1 {
			f.invalid(path, omitted, fmt.Sprintf("duplicate trust anchor (indices %v)", at))
		}
	}
}

// anchorFault says why a block is not a certificate of a CA, "" if it is.
func anchorFault(b *pem.Block) string {
	if b.Type != "CERTIFICATE" {
		return fmt.Sprintf("has bad block type: %v", b.Type)
	}
	if len(b.Headers) != 0 {
		return "has PEM block headers"
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !cert.IsCA:
		return "does not have the CA bit set"
	case !cert.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
