// Package autoscaling holds the rules that the tags in k8s.io/api/autoscaling/v1 declare, as validation-gen writes them.
//
// +k8s:validation-gen=TypesWithField=TypeMeta
// +k8s:validation-gen-input=k8s.io/api/autoscaling/v1
package autoscaling

import "k8s.io/apimachinery/pkg/runtime"

var localSchemeBuilder runtime.SchemeBuilder

// AddTo registers the rules.
func AddTo(s *runtime.Scheme) error { return localSchemeBuilder.AddToScheme(s) }
