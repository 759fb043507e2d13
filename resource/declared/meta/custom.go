package meta

import (
	"context"

	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateCustom_Condition_LastTransitionTime is apimachinery's; the tag k8s:customValidation calls it by this name.
//
//nolint:revive // the generator asks for this name
func ValidateCustom_Condition_LastTransitionTime(ctx context.Context, op operation.Operation, at *field.Path, value, old *metav1.Time) field.ErrorList {
	return validation.ValidateCustom_Condition_LastTransitionTime(ctx, op, at, value, old)
}
