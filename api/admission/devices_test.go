package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

func TestAdminAccessNeedsALabelledNamespace(t *testing.T) {
	w := newWorld()
	w.reader.Put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "admins", Labels: map[string]string{"resource.kubernetes.io/admin-access": "true"}}})
	spec := func(admin *bool) resourcev1.ResourceClaimSpec {
		return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Name: "other"}, {Name: "r", Exactly: &resourcev1.ExactDeviceRequest{AdminAccess: admin}}}}}
	}
	claim := func(ns string, admin *bool) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "c"}, Spec: spec(admin)}
	}
	given := func(admin *bool) *resourcev1.ResourceClaim {
		c := claim("ns", nil)
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{AdminAccess: admin}}}}
		return c
	}
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "t"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: spec(ptr.To(true))}}
	const refused = "spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label"
	for _, tt := range []struct {
		op       admission.Operation
		ns       string
		obj, old runtime.Object
		sub      string
		want     string
	}{
		{admission.Create, "ns", claim("ns", nil), nil, "", ""},
		{admission.Create, "ns", claim("ns", ptr.To(false)), nil, "", ""},
		{admission.Create, "ns", claim("ns", ptr.To(true)), nil, "", refused},
		{admission.Create, "admins", claim("admins", ptr.To(true)), nil, "", ""},
		{admission.Create, "ns", template, nil, "", refused},
		{admission.Update, "ns", given(ptr.To(true)), claim("ns", nil), "status", "status.allocation.devices.results[0].adminAccess: Forbidden"},
		{admission.Update, "ns", given(ptr.To(true)), given(ptr.To(true)), "status", ""},
		{admission.Update, "ns", given(nil), claim("ns", nil), "status", ""},
	} {
		resource := "resourceclaims"
		if tt.obj == runtime.Object(template) {
			resource = "resourceclaimtemplates"
		}
		err := w.do(request{op: tt.op, obj: tt.obj, old: tt.old, group: "resource.k8s.io", resource: resource, sub: tt.sub, kind: "ResourceClaim", namespace: tt.ns, name: "c"})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s in %s: %v, want %q", tt.op, tt.ns, err, tt.want)
		}
	}
}
