package core

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// reservedPriorities below this number belong to responders of Kubernetes itself (KEP-4563).
const reservedPriorities = 1000

// ValidateCustom_EvictionResponder_Name refuses names in Kubernetes' own domains; the tag k8s:customValidation calls it.
//
//nolint:revive // the generator asks for this name
func ValidateCustom_EvictionResponder_Name(_ context.Context, _ operation.Operation, at *field.Path, value, _ *string) field.ErrorList {
	if value == nil {
		return nil
	}
	domain, _, _ := strings.Cut(*value, "/")
	domain = strings.TrimRight(strings.TrimSpace(strings.ToLower(domain)), ".")
	for _, reserved := range []string{".k8s.io", ".kubernetes.io"} {
		if strings.HasSuffix("."+domain, reserved) {
			return field.ErrorList{field.Invalid(at, *value, "domain names *.k8s.io, *.kubernetes.io are reserved")}
		}
	}
	return nil
}

// ValidateCustom_EvictionResponder_Priority keeps 0–999 for Kubernetes' own responders; the tag k8s:customValidation calls it.
//
//nolint:revive // the generator asks for this name
func ValidateCustom_EvictionResponder_Priority(_ context.Context, _ operation.Operation, at *field.Path, value, _ *int32) field.ErrorList {
	if value == nil || *value < 0 || *value >= reservedPriorities {
		return nil
	}
	return field.ErrorList{field.Invalid(at, *value, "priorities 0-999 are reserved for responders with *.k8s.io suffix")}
}
