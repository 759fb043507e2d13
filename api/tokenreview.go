package api

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// reviewToken answers whose a token is, for the audiences asked about, by default the API server's.
func reviewToken(ctx context.Context, tokens authenticator.Token, review *authenticationv1.TokenReview) error {
	if review.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if tokens == nil {
		return unavailable("reviewing tokens")
	}
	review.Status = authenticationv1.TokenReviewStatus{}
	if len(review.Spec.Audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, review.Spec.Audiences)
	}
	answer, ok, err := tokens.AuthenticateToken(ctx, review.Spec.Token)
	switch {
	case err != nil:
		review.Status.Error = "the token is not valid: " + err.Error()
	case ok:
		review.Status.Authenticated = true
		review.Status.User = userInfo(answer.User)
		review.Status.Audiences = answer.Audiences
	}
	return nil
}
