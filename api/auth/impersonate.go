package auth

import (
	"context"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Impersonate returns whom the request acts for: by, or the user of its Impersonate-* headers if by may impersonate every
// part of it. The headers are removed from h. Errors are API errors (400, 403).
func Impersonate(ctx context.Context, h http.Header, by user.Info, az authorizer.UnconditionalAuthorizer) (user.Info, error) {
	name, uid := h.Get(authenticationv1.ImpersonateUserHeader), h.Get(authenticationv1.ImpersonateUIDHeader)
	groups := h[authenticationv1.ImpersonateGroupHeader]
	extra := extraHeaders(h, authenticationv1.ImpersonateUserExtraHeaderPrefix)
	if name == "" {
		if uid != "" || len(groups) > 0 || len(extra) > 0 {
			return nil, apierrors.NewBadRequest("Impersonate-Group, -Uid and -Extra- headers need an Impersonate-User header")
		}
		return by, nil
	}
	for _, header := range []string{authenticationv1.ImpersonateUserHeader, authenticationv1.ImpersonateUIDHeader,
		authenticationv1.ImpersonateGroupHeader} {
		h.Del(header)
	}
	deletePrefix(h, authenticationv1.ImpersonateUserExtraHeaderPrefix)

	check := func(group, resource, subresource, namespace, name string) error {
		return mayImpersonate(ctx, az, authorizer.AttributesRecord{User: by, Verb: "impersonate", APIGroup: group, APIVersion: "v1",
			Resource: resource, Subresource: subresource, Namespace: namespace, Name: name, ResourceRequest: true})
	}
	as := &user.DefaultInfo{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	var err error
	if ns, sa, saErr := serviceaccount.SplitUsername(name); saErr == nil {
		err = check("", "serviceaccounts", "", ns, sa)
		if len(groups) == 0 {
			as.Groups = serviceaccount.MakeGroupNames(ns)
		}
	} else {
		err = check("", "users", "", "", name)
	}
	for i := 0; i < len(groups) && err == nil; i++ {
		err = check("", "groups", "", "", groups[i])
	}
	if uid != "" && err == nil {
		err = check(authenticationv1.GroupName, "uids", "", "", uid)
	}
	for key, values := range extra {
		for i := 0; i < len(values) && err == nil; i++ {
			err = check(authenticationv1.GroupName, "userextras", key, "", values[i])
		}
	}
	if err != nil {
		return nil, err
	}
	as.Groups = withOwnGroup(name, as.Groups)
	return as, nil
}

func withOwnGroup(name string, groups []string) []string {
	if name != user.Anonymous {
		return withAuthenticated(groups)
	}
	if slices.Contains(groups, user.AllUnauthenticated) {
		return groups
	}
	return append(groups, user.AllUnauthenticated)
}

func mayImpersonate(ctx context.Context, az authorizer.UnconditionalAuthorizer, a authorizer.AttributesRecord) error {
	decision, reason, err := az.Authorize(ctx, a)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errForbidden(a, reason))
}
