package resource

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
)

// Bodies of subresources that are kinds of another group.
var (
	scaleKind        = autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
)

// scale is the subresource that every workload with a number of replicas has.
func scale() Subresource {
	return Subresource{Name: "scale", Kind: scaleKind, Verbs: []string{"get", "patch", "update"}}
}
