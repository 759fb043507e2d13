package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
)

// written handles what may change the usage of an object that can be updated.
func written(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}

// serviceMeasure counts services, their load balancers and their node ports.
func serviceMeasure() *evaluator {
	const count = corev1.ResourceName("count/services")
	return &evaluator{
		gr: schema.GroupResource{Resource: "services"},
		measures: func(name corev1.ResourceName) bool {
			switch name {
			case count, corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
				return true
			}
			return false
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			service, ok := obj.(*corev1.Service)
			if !ok {
				return nil, wrongType(obj, "service")
			}
			balancers, ports := int64(0), int64(0)
			switch service.Spec.Type {
			case corev1.ServiceTypeLoadBalancer:
				balancers, ports = 1, balancerPorts(service)
			case corev1.ServiceTypeNodePort:
				ports = int64(len(service.Spec.Ports))
			}
			return corev1.ResourceList{
				count: number(1), corev1.ResourceServices: number(1),
				corev1.ResourceServicesLoadBalancers: number(balancers), corev1.ResourceServicesNodePorts: number(ports),
			}, nil
		},
		handles: written,
	}
}

// balancerPorts: node ports are given after admission, so what counts is whether they will be.
func balancerPorts(s *corev1.Service) int64 {
	if a := s.Spec.AllocateLoadBalancerNodePorts; a == nil || *a {
		return int64(len(s.Spec.Ports))
	}
	n := int64(0)
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			n++
		}
	}
	return n
}

const classSuffix = ".storageclass.storage.k8s.io/"

// volumeClaimMeasure counts claims and the storage they ask for, in all and by storage class.
func volumeClaimMeasure() *evaluator {
	const count = corev1.ResourceName("count/persistentvolumeclaims")
	return &evaluator{
		gr: schema.GroupResource{Resource: "persistentvolumeclaims"},
		measures: func(name corev1.ResourceName) bool {
			if name == count {
				return true
			}
			if _, of, ok := strings.Cut(string(name), classSuffix); ok {
				name = corev1.ResourceName(of)
			}
			return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			claim, ok := obj.(*corev1.PersistentVolumeClaim)
			if !ok {
				return nil, wrongType(obj, "volume claim")
			}
			used := corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: number(1)}
			if size, asks := storageOf(claim); asks {
				used[corev1.ResourceRequestsStorage] = size
			}
			if class := storageClass(claim); class != "" {
				for _, name := range []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage} {
					if q, ok := used[name]; ok {
						used[corev1.ResourceName(class+classSuffix)+name] = q
					}
				}
			}
			used[count] = number(1)
			return used, nil
		},
		handles: handlesVolumeClaim,
		moves:   volumeClaimMoves,
		scope:   volumeClaimInScope,
	}
}

func handlesVolumeClaim(a admission.Attributes) bool {
	if a.GetSubresource() != "status" {
		return written(a)
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, also := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !also {
		return false
	}
	was, is := old.Status.AllocatedResources.Storage(), claim.Status.AllocatedResources.Storage()
	return was.Cmp(*is) != 0 || volumeClaimMoves(old, claim)
}

func volumeClaimMoves(old, obj runtime.Object) bool {
	was, ok := old.(*corev1.PersistentVolumeClaim)
	is, also := obj.(*corev1.PersistentVolumeClaim)
	return ok && also && !slices.Equal(attributesClasses(was), attributesClasses(is))
}

// storageOf is the larger of what a claim asks for and what it was given, in whole bytes.
func storageOf(c *corev1.PersistentVolumeClaim) (resource.Quantity, bool) {
	size, asks := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if !asks {
		return resource.Quantity{}, false
	}
	if given, ok := c.Status.AllocatedResources[corev1.ResourceStorage]; ok && given.Cmp(size) > 0 {
		size = given
	}
	size = size.DeepCopy()
	size.RoundUp(0)
	return size, true
}

func storageClass(c *corev1.PersistentVolumeClaim) string {
	if name, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}

func volumeClaimInScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return false, wrongType(obj, "volume claim")
	}
	if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	return selects(s, attributesClasses(claim)...)
}

// attributesClasses are the volume attributes classes that a claim has, wants, or is on its way to.
func attributesClasses(c *corev1.PersistentVolumeClaim) []string {
	var names []string
	if name := c.Spec.VolumeAttributesClassName; name != nil && *name != "" {
		names = append(names, *name)
	}
	if name := c.Status.CurrentVolumeAttributesClassName; name != nil && *name != "" {
		names = append(names, *name)
	}
	if m := c.Status.ModifyVolumeStatus; m != nil && m.TargetVolumeAttributesClassName != "" {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	return names
}

// resourceClaimMeasure counts claims and the devices they may be given, by device class.
func resourceClaimMeasure() *evaluator {
	const count = corev1.ResourceName("count/resourceclaims.resource.k8s.io")
	return &evaluator{
		gr: schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"},
		measures: func(name corev1.ResourceName) bool {
			return name == count || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			claim, ok := obj.(*resourcev1.ResourceClaim)
			if !ok {
				return nil, wrongType(obj, "resource claim")
			}
			used := corev1.ResourceList{count: number(1)}
			for _, r := range claim.Spec.Devices.Requests {
				for name, n := range devicesOf(r) {
					sum := used[name]
					sum.Add(number(n))
					used[name] = sum
				}
			}
			return used, nil
		},
		handles: written,
	}
}

// devicesOf is how many devices of each class a request may be given at the most.
func devicesOf(r resourcev1.DeviceRequest) map[corev1.ResourceName]int64 {
	most := map[corev1.ResourceName]int64{}
	ask := func(class string, mode resourcev1.DeviceAllocationMode, n int64) {
		switch mode {
		case resourcev1.DeviceAllocationModeAll:
			n = resourcev1.AllocationResultsMaxSize
		case resourcev1.DeviceAllocationModeExactCount:
		default:
			n = 0 // a mode of a newer version
		}
		name := corev1.ResourceName(class + corev1.ResourceClaimsPerClass)
		most[name] = max(most[name], n)
	}
	if len(r.FirstAvailable) > 0 {
		for _, s := range r.FirstAvailable {
			ask(s.DeviceClassName, s.AllocationMode, s.Count)
		}
	} else if e := r.Exactly; e != nil {
		ask(e.DeviceClassName, e.AllocationMode, e.Count)
	}
	return most
}
