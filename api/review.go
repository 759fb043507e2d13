package api

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"mgr/resource"
)

// Reviews are questions in the form of objects: they can be created, are answered in their status, and are stored nowhere.
// Every master answers them: who am I (SelfSubjectReview), whose token is this (TokenReview), may I
// (SelfSubjectAccessReview), may they (SubjectAccessReview, LocalSubjectAccessReview), and what may I at all
// (SelfSubjectRulesReview).

// reviewKinds are their rows, which only the API server knows.
func reviewKinds() []*resource.Kind {
	row := func(gv schema.GroupVersion, kind, singular string, new func() runtime.Object) *resource.Kind {
		return &resource.Kind{GroupVersionResource: gv.WithResource(singular + "s"), Kind: kind, Singular: singular, Verbs: []string{"create"}, New: new}
	}
	local := row(authorizationv1.SchemeGroupVersion, "LocalSubjectAccessReview", "localsubjectaccessreview", func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} })
	local.Namespaced = true
	return []*resource.Kind{
		row(authenticationv1.SchemeGroupVersion, "SelfSubjectReview", "selfsubjectreview", func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }),
		row(authenticationv1.SchemeGroupVersion, "TokenReview", "tokenreview", func() runtime.Object { return &authenticationv1.TokenReview{} }),
		row(authorizationv1.SchemeGroupVersion, "SelfSubjectAccessReview", "selfsubjectaccessreview", func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }),
		row(authorizationv1.SchemeGroupVersion, "SelfSubjectRulesReview", "selfsubjectrulesreview", func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }),
		row(authorizationv1.SchemeGroupVersion, "SubjectAccessReview", "subjectaccessreview", func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }),
		local,
	}
}

func isReview(group string) bool {
	return group == authenticationv1.GroupName || group == authorizationv1.GroupName
}

// reviewEndpoint serves one of them.
func (s *Server) reviewEndpoint(k *resource.Kind) *endpoint {
	scope, st := s.scope(k, ""), &reviewStore{kind: k, authorizer: s.cfg.Authorizer, tokens: s.cfg.TokenReviewer}
	scope.TableConvertor = nil // an answer is no list of objects: who wants a table gets 406
	return &endpoint{kind: k, scope: scope, verbs: map[string]http.Handler{
		"create": s.managed(scope, managedfields.NewDeducedTypeConverter, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.CreateResource(st, sc, s.cfg.Admission)
		}),
	}}
}

type reviewStore struct {
	kind       *resource.Kind
	authorizer authorizer.Authorizer
	tokens     authenticator.Token
}

var _ rest.Creater = &reviewStore{}

func (st *reviewStore) New() runtime.Object { return st.kind.New() }

// Create answers the question.
func (st *reviewStore) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj); err != nil {
			return nil, err
		}
	}
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil) // it is never stored
	}
	who, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewUnauthorized("nobody asks")
	}
	switch review := obj.(type) {
	case *authenticationv1.SelfSubjectReview:
		*review = authenticationv1.SelfSubjectReview{
			TypeMeta: review.TypeMeta, ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
			Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(who)},
		}
	case *authenticationv1.TokenReview:
		if err := reviewToken(ctx, st.tokens, review); err != nil {
			return nil, err
		}
	default:
		if err := st.reviewAccess(ctx, who, obj); err != nil {
			return nil, err
		}
	}
	return obj, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	if extra := u.GetExtra(); len(extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(extra))
		for key, values := range extra {
			info.Extra[key] = values
		}
	}
	return info
}
