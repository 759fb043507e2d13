package api_test

import (
	"context"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api"
	"mgr/api/apitest"
)

// readers may read, and everybody may ask.
type readers struct{ apitest.AllowAll }

func (readers) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.IsReadOnly() || a.GetUser().GetName() == "mgr-admin" {
		return authorizer.DecisionAllow, "reading is free", nil
	}
	return authorizer.DecisionNoOpinion, "not for " + a.GetUser().GetName(), nil
}

func TestReviews(t *testing.T) {
	s := apitest.New(t, func(c *api.Config) { c.Authorizer = readers{} })
	ctx, before := t.Context(), s.Quorum.FSM().State().Revision()
	me, err := s.Client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || me.Status.UserInfo.Username != "mgr-admin" || !slices.Contains(me.Status.UserInfo.Groups, "system:masters") {
		t.Errorf("who am I: %+v, %v", me, err)
	}
	pods := func(verb string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Verb: verb, Resource: "pods", Namespace: "default"}
	}
	mine, err := s.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods("delete")}}, metav1.CreateOptions{})
	if err != nil || !mine.Status.Allowed {
		t.Errorf("may I: %+v, %v", mine, err)
	}
	for _, c := range []struct {
		spec    authorizationv1.SubjectAccessReviewSpec
		allowed bool
		reason  string
	}{
		{authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: pods("get")}, true, "reading is free"},
		{authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: pods("delete")}, false, "not for eve"},
		{authorizationv1.SubjectAccessReviewSpec{User: "eve", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "post", Path: "/x"}}, false, "not for eve"},
	} {
		theirs, err := s.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: c.spec}, metav1.CreateOptions{})
		if err != nil || theirs.Status.Allowed != c.allowed || theirs.Status.Reason != c.reason {
			t.Errorf("may %+v: %+v, %v", c.spec, theirs, err)
		}
	}
	_, err = s.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("a question about nothing: %v", err)
	}
	if after := s.Quorum.FSM().State().Revision(); after != before {
		t.Error("questions were stored")
	}
	found, err := s.Client.Discovery().ServerResourcesForGroupVersion("authorization.k8s.io/v1")
	if err != nil || len(found.APIResources) != 4 {
		t.Errorf("discovery: %+v, %v", found, err)
	}
}

// Every master answers questions itself.
func TestReviewsNeedNoLeader(t *testing.T) {
	_, follower, p, _ := masters(t)
	p[1].leader.Store(nil)
	if _, err := follower.Client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

// An answer is no list of objects, so a printer that wants columns is told that there are none.
func TestReviewsAreNoTables(t *testing.T) {
	s := apitest.New(t)
	err := s.Client.AuthorizationV1().RESTClient().Post().Resource("selfsubjectaccessreviews").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").
		Body(&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/"}}}).Do(t.Context()).Error()
	if !apierrors.IsNotAcceptable(err) {
		t.Errorf("a review as a table: %v", err)
	}
}
