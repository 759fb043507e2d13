package resource

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// resourceClaims are the devices that a pod asks for (KEP-4381); their names are what containers refer to.
func (v *podSpecValidator) resourceClaims(pod *corev1.Pod, path *field.Path) {
	names := seen{}
	for i, c := range v.spec.ResourceClaims {
		at := path.Index(i)
		if pod != nil {
			if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
				v.forbidden(field.NewPath(""), "static pods do not support resource claims")
				continue
			}
		}
		if v.given(at.Child("name"), c.Name) {
			if names.again(c.Name) {
				v.add(field.Duplicate(at.Child("name"), c.Name))
			} else {
				v.dnsLabel(at.Child("name"), c.Name)
			}
		}
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			v.invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			v.invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		for name, ref := range map[string]*string{"resourceClaimName": c.ResourceClaimName, "resourceClaimTemplateName": c.ResourceClaimTemplateName} {
			if ref != nil {
				v.invalid(at.Child(name), *ref, apivalidation.NameIsDNSSubdomain(*ref, false)...)
			}
		}
	}
}

// claimNames are those of the pod's claims that one container uses: whole, or by request.
func (v *podSpecValidator) claimNames(claims []corev1.ResourceClaim, path *field.Path) {
	whole, byRequest, requested := seen{}, seen{}, map[string]bool{}
	for i, c := range claims {
		at := path.Index(i)
		if c.Name == "" {
			v.required(at, "")
			continue
		}
		_, used := whole[c.Name]
		switch {
		case used:
			v.add(field.Duplicate(at, c.Name))
		case c.Request != "":
			v.dnsLabel(at.Child("request"), c.Request)
			if byRequest.again(c.Name + "/" + c.Request) {
				v.add(field.Duplicate(at, c.Name+"/"+c.Request))
			}
			requested[c.Name] = true
		default:
			if requested[c.Name] {
				v.add(field.Duplicate(at, c.Name))
			}
			whole.again(c.Name)
		}
		v.claimed(c.Name, at)
	}
}

// claimed finds a name that is none of the pod's claims'.
func (v *podSpecValidator) claimed(name string, at *field.Path) {
	var names []string
	for _, c := range v.spec.ResourceClaims {
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	if slices.Contains(names, name) {
		return
	}
	found := field.NotFound(at, name)
	found.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
	if len(names) > 0 {
		slices.Sort(names)
		found.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(slices.Compact(names), ", ")
	}
	v.add(found)
}
