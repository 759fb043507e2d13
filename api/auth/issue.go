package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// Bounds of TokenRequest.spec.expirationSeconds.
const (
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
	defaultTokenSeconds = 60 * 60
)

// Issue answers a TokenRequest for the service account namespace/name (subresource serviceaccounts/token) with a new
// object that has what the request left open and a status. Errors are API errors.
func (t *Tokens) Issue(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	account, found, err := lookup[*corev1.ServiceAccount](ctx, t.reader, serviceAccounts, namespace, name)
	if err != nil || !found {
		return nil, notFound(err, serviceAccounts, name)
	}
	out := request.DeepCopy()
	if err := t.complete(out, account); err != nil {
		return nil, err
	}
	spec := &out.Spec
	private := &privateClaims{Namespace: namespace, ServiceAccount: ref{name, string(account.UID)}}
	if spec.BoundObjectRef != nil {
		if err := t.bind(ctx, private, spec.BoundObjectRef); err != nil {
			return nil, err
		}
	}
	now := t.now()
	expires := now.Add(time.Duration(*spec.ExpirationSeconds) * time.Second)
	text, err := t.sign(&claims{Private: private, Claims: jwt.Claims{
		Issuer:    t.issuer,
		Subject:   serviceaccount.MakeUsername(namespace, name),
		Audience:  jwt.Audience(spec.Audiences),
		Expiry:    jwt.NewNumericDate(expires),
		NotBefore: jwt.NewNumericDate(now),
		IssuedAt:  jwt.NewNumericDate(now),
		ID:        string(uuid.NewUUID()),
	}})
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.CreationTimestamp = metav1.NewTime(now)
	out.Status = authenticationv1.TokenRequestStatus{Token: text, ExpirationTimestamp: metav1.NewTime(expires)}
	return out, nil
}

// complete fills in what the request left open, and refuses one that is for another account or asks for too much.
func (t *Tokens) complete(r *authenticationv1.TokenRequest, account *corev1.ServiceAccount) error {
	kind := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind()
	mismatch := func(what, value string) error {
		return apierrors.NewInvalid(kind, account.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", what), value, "must match the service account "+what+" if specified")})
	}
	switch {
	case r.Name != "" && r.Name != account.Name:
		return mismatch("name", r.Name)
	case r.Namespace != "" && r.Namespace != account.Namespace:
		return mismatch("namespace", r.Namespace)
	case r.UID != "" && r.UID != account.UID:
		return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, account.Name, fmt.Errorf(
			"the UID in the token request (%s) does not match the UID of the service account (%s)", r.UID, account.UID))
	}
	r.Name, r.Namespace, r.UID = account.Name, account.Namespace, account.UID
	if r.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		r.Spec.ExpirationSeconds = &seconds
	}
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = t.Audiences()
	}
	if errs := validateTokenRequest(r); len(errs) > 0 {
		return apierrors.NewInvalid(kind, "", errs)
	}
	return nil
}

func validateTokenRequest(r *authenticationv1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	path, seconds := field.NewPath("spec", "expirationSeconds"), *r.Spec.ExpirationSeconds
	if seconds < minTokenSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > maxTokenSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if given := r.Spec.Attestations; len(given) > 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "attestations"), given, "attestations may only be specified with a webhook bound object reference")}
	}
	return errs
}

// bind checks that the object exists and may carry the token, and puts it into the claims.
func (t *Tokens) bind(ctx context.Context, p *privateClaims, b *authenticationv1.BoundObjectReference) error {
	gvk := schema.FromAPIVersionAndKind(b.APIVersion, b.Kind)
	var uid types.UID
	switch gvk {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		pod, found, err := lookup[*corev1.Pod](ctx, t.reader, pods, p.Namespace, b.Name)
		if err != nil || !found {
			return notFound(err, pods, b.Name)
		}
		if pod.Spec.ServiceAccountName != p.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", p.ServiceAccount.Name))
		}
		uid, p.Pod = pod.UID, &ref{pod.Name, string(pod.UID)}
		if pod.Spec.NodeName != "" {
			p.Node = &ref{Name: pod.Spec.NodeName}
			if node, found, err := lookup[*corev1.Node](ctx, t.reader, nodes, "", pod.Spec.NodeName); err == nil && found {
				p.Node.UID = string(node.UID)
			}
		}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret, found, err := lookup[*corev1.Secret](ctx, t.reader, secrets, p.Namespace, b.Name)
		if err != nil || !found {
			return notFound(err, secrets, b.Name)
		}
		uid, p.Secret = secret.UID, &ref{secret.Name, string(secret.UID)}
	case corev1.SchemeGroupVersion.WithKind("Node"):
		node, found, err := lookup[*corev1.Node](ctx, t.reader, nodes, "", b.Name)
		if err != nil || !found {
			return notFound(err, nodes, b.Name)
		}
		uid, p.Node = node.UID, &ref{node.Name, string(node.UID)}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	if b.UID != "" && b.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, b.Name, fmt.Errorf(
			"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", b.UID))
	}
	return nil
}

func notFound(err error, gr schema.GroupResource, name string) error {
	if err != nil {
		return err
	}
	return apierrors.NewNotFound(gr, name)
}
