package resource

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podCertificateSeconds is the longest life of a pod's certificate that asks for none.
const podCertificateSeconds = int32(24 * 60 * 60)

// podCertificateRequest (KEP-4317): an agent asks for a pod's certificate; a signer answers in the status, once.
func podCertificateRequest() *Kind {
	k := row[certificatesv1.PodCertificateRequest, certificatesv1.PodCertificateRequestList](
		certificatesv1.SchemeGroupVersion, "PodCertificateRequest", "podcertificaterequests")
	k.UnconditionalUpdate = false
	k.Default = defaulting(func(r *certificatesv1.PodCertificateRequest) {
		setDefaultPtr(&r.Spec.MaxExpirationSeconds, podCertificateSeconds)
	})
	k.Rules = Rules{
		Prepare: preparing(func(r, old *certificatesv1.PodCertificateRequest) {
			r.Status = certificatesv1.PodCertificateRequestStatus{}
			if old != nil {
				r.Status = old.Status
			}
		}),
		Validate: validating(checked(validatePodCertificateRequest)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(func(r, old *certificatesv1.PodCertificateRequest) {
			r.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(r, old)
		}),
		Validate: validatePodCertificateStatus,
	})}
	k.Fields = reading(func(r *certificatesv1.PodCertificateRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
	})
	doc := certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("PodName", doc["podName"]),
		text("ServiceAccountName", doc["serviceAccountName"]),
		text("NodeName", doc["nodeName"]),
		text("SignerName", doc["signerName"]),
		text("State", "Is the request Pending, Issued, Denied, or Failed?"),
		text("UnverifiedUserAnnotations", doc["unverifiedUserAnnotations"]),
	}
	k.Cells = printing(func(r *certificatesv1.PodCertificateRequest, _ time.Time) []any {
		state := "Pending"
		for i := range r.Status.Conditions {
			if t := r.Status.Conditions[i].Type; podCertificateEnd(t) {
				state = t
			}
		}
		return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state,
			labels.FormatLabels(r.Spec.UnverifiedUserAnnotations)}
	})
	return k
}

// podCertificateEnd says whether a condition type is one after which nothing changes any more.
func podCertificateEnd(t string) bool {
	switch t {
	case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
		certificatesv1.PodCertificateRequestConditionTypeFailed:
		return true
	}
	return false
}

func validatePodCertificateStatus(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	var f findings
	podCertificateStatus(&f, as[certificatesv1.PodCertificateRequest](obj), as[certificatesv1.PodCertificateRequest](old), timeOf(ctx))
	return f.list
}
