package resource

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// prepareResize lets other resources in, of the pod and of its containers, and nothing else. Where the containers are not the
// same, everything stays for the validation to refuse.
func prepareResize(p, old *corev1.Pod) {
	if len(p.Spec.Containers) == len(old.Spec.Containers) && len(p.Spec.InitContainers) == len(old.Spec.InitContainers) {
		whole, containers, inits := p.Spec.Resources, p.Spec.Containers, p.Spec.InitContainers
		old.Spec.DeepCopyInto(&p.Spec)
		old.Status.DeepCopyInto(&p.Status)
		metav1.ResetObjectMetaForStatus(p, old)
		p.Spec.Resources = whole
		p.Spec.Containers = resized(containers, p.Spec.Containers)
		p.Spec.InitContainers = resized(inits, p.Spec.InitContainers)
	}
	if p.Spec.Resources == nil {
		p.Spec.Resources = old.Spec.Resources.DeepCopy() // clients that do not know the field
	}
	defaultPodResources(p)
	dropAlphaPod(&p.Spec, &old.Spec)
	p.Generation = old.Generation
	if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
		p.Generation++
	}
}

// resized is old with the resources that were asked for; what was asked for if the names are not the same.
func resized(asked, old []corev1.Container) []corev1.Container {
	for i := range asked {
		if asked[i].Name != old[i].Name {
			return asked
		}
	}
	for i := range asked {
		old[i].Resources, old[i].ResizePolicy = asked[i].Resources, asked[i].ResizePolicy
	}
	return old
}

// validateResize: cpu and memory of a pod and its containers may change, up and down, as long as the pod's class stays
// (KEP-1287, KEP-5419).
func validateResize(f *findings, p, old *corev1.Pod) {
	spec := field.NewPath("spec")
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		f.forbidden(field.NewPath(""), "static pods cannot be resized")
		return
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		f.forbidden(field.NewPath(""), "windows pods cannot be resized")
		return
	}
	metadataAnew(f, p, old, true, apivalidation.NameIsDNSSubdomain)
	podAnnotations(f, p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	f.add(validatePodSpec(&p.Spec, p, spec)...)
	podOnly(f, p, spec)
	if QOS(old) != qosClass(&p.Spec) {
		f.invalid(spec, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	if i := slices.IndexFunc(old.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil }); i >= 0 &&
		old.Status.ContainerStatuses[i].Resources == nil {
		f.forbidden(spec, "Pod running on node without support for resize")
	}
	rest := p.Spec.DeepCopy()
	resizesPod(f, rest, &old.Spec, spec)
	if !sameContainers(f, rest.Containers, old.Spec.Containers, spec.Child("containers")) ||
		!sameContainers(f, rest.InitContainers, old.Spec.InitContainers, spec.Child("initContainers")) {
		return
	}
	for i := range rest.InitContainers {
		resizesContainer(f, &rest.InitContainers[i], &old.Spec.InitContainers[i], spec.Child("initContainers").Index(i))
	}
	for i := range rest.Containers {
		resizesContainer(f, &rest.Containers[i], &old.Spec.Containers[i], spec.Child("containers").Index(i))
	}
	for i := range rest.Containers {
		computeAsBefore(&rest.Containers[i].Resources, &old.Spec.Containers[i].Resources)
		if !apiequality.Semantic.DeepEqual(rest.Containers[i], old.Spec.Containers[i]) {
			f.forbidden(spec, "only cpu and memory resources are mutable")
		}
	}
	for i := range rest.InitContainers {
		initResize(f, &rest.InitContainers[i], &old.Spec.InitContainers[i], spec.Child("initContainers").Index(i))
	}
	if !apiequality.Semantic.DeepEqual(rest.Volumes, old.Spec.Volumes) {
		f.forbidden(spec.Child("volumes"), "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled")
	}
	if len(f.list) == 0 && !apiequality.Semantic.DeepEqual(rest, &old.Spec) {
		f.forbidden(spec, "only cpu and memory resources are mutable")
	}
}

// resizesPod checks the change of the pod's own resources, and puts the old cpu and memory back in rest.
func resizesPod(f *findings, rest, old *corev1.PodSpec, spec *field.Path) {
	set := func(r *corev1.ResourceRequirements) bool { return r != nil && len(r.Requests)+len(r.Limits) > 0 }
	if !set(rest.Resources) && !set(old.Resources) {
		return
	}
	if old.Resources != nil {
		if rest.Resources == nil {
			f.forbidden(spec.Child("resources"), "pod-level resources cannot be removed")
			return
		}
		if lacks(rest.Resources.Requests, old.Resources.Requests) {
			f.forbidden(spec.Child("resources", "requests"), "pod-level resource requests cannot be removed")
		}
		if lacks(rest.Resources.Limits, old.Resources.Limits) {
			f.forbidden(spec.Child("resources", "limits"), "pod-level resource limits cannot be removed")
		}
	}
	before := ptr.Deref(old.Resources, corev1.ResourceRequirements{})
	computeAsBefore(rest.Resources, &before)
	if old.Resources == nil && !set(rest.Resources) && len(rest.Resources.Claims) == 0 {
		rest.Resources = nil
	}
	if !apiequality.Semantic.DeepEqual(rest.Resources, old.Resources) {
		f.forbidden(spec, "only cpu and memory resources are mutable at pod-level")
	}
}

func sameContainers(f *findings, list, old []corev1.Container, at *field.Path) bool {
	kind := at.String()[len("spec."):]
	if len(list) != len(old) {
		f.forbidden(at, kind+" may not be added or removed on resize")
		return false
	}
	same := true
	for i := range old {
		if list[i].Name != old[i].Name {
			f.forbidden(at.Index(i).Child("name"), kind+" may not be renamed or reordered on resize")
			same = false
		}
	}
	return same
}

// resizesContainer: what is requested or limited stays so.
func resizesContainer(f *findings, c, old *corev1.Container, at *field.Path) {
	if lacks(c.Resources.Requests, old.Resources.Requests) {
		f.forbidden(at.Child("resources", "requests"), "resource requests cannot be removed")
	}
	if lacks(c.Resources.Limits, old.Resources.Limits) {
		f.forbidden(at.Child("resources", "limits"), "resource limits cannot be removed")
	}
}

func initResize(f *findings, c, old *corev1.Container, at *field.Path) {
	changed := !apiequality.Semantic.DeepEqual(c, old)
	computeAsBefore(&c.Resources, &old.Resources)
	if !apiequality.Semantic.DeepEqual(c, old) {
		f.forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable")
	}
	if !changed || ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
		return
	}
	for _, policy := range c.ResizePolicy {
		if policy.RestartPolicy == corev1.RestartContainer {
			f.forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")
		}
	}
}

// lacks says whether a list has lost a resource of old.
func lacks(list, old corev1.ResourceList) bool {
	if len(old) > len(list) {
		return true
	}
	for name := range old {
		if _, kept := list[name]; !kept {
			return true
		}
	}
	return false
}

// computeAsBefore puts the cpu and memory of old back, so that what still differs is another change.
func computeAsBefore(r, old *corev1.ResourceRequirements) {
	back := func(list, old corev1.ResourceList) corev1.ResourceList {
		if list == nil && old == nil {
			return nil
		}
		list = maps.Clone(list)
		if list == nil {
			list = corev1.ResourceList{}
		}
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			delete(list, name)
			if q, had := old[name]; had {
				list[name] = q
			}
		}
		return list
	}
	r.Requests, r.Limits = back(r.Requests, old.Requests), back(r.Limits, old.Limits)
}
