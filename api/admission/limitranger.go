package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	helpers "k8s.io/component-helpers/resource"

	"mgr/api/auth"
)

// limitRanger gives containers the requests and limits that their namespace's LimitRanges default, and refuses pods and
// claims outside of what those ranges allow.
type limitRanger struct {
	*admission.Handler
	reader auth.Reader
}

// limitAnnotation tells which requests and limits were not asked for.
const limitAnnotation = "kubernetes.io/limit-ranger"

func (p *limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != pods {
		return nil
	}
	return p.each(ctx, a, func(limits []corev1.LimitRangeItem) error {
		pod, err := podOf(a)
		if err == nil {
			defaultResources(pod, limits)
		}
		return err
	})
}

func (p *limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	return p.each(ctx, a, func(limits []corev1.LimitRangeItem) error {
		switch obj := a.GetObject().(type) {
		case *corev1.Pod:
			return limitPod(obj, limits)
		case *corev1.PersistentVolumeClaim:
			return limitClaim(obj, limits)
		}
		return nil
	})
}

// limited says whether LimitRanges have something to say about a request. The containers of a pod change by resize only.
func limited(a admission.Attributes) bool {
	switch a.GetResource().GroupResource() {
	case pods:
		return a.GetSubresource() == "" && a.GetOperation() == admission.Create ||
			a.GetSubresource() == "resize" && a.GetOperation() == admission.Update
	case claims:
		return a.GetSubresource() == ""
	}
	return false
}

// each calls apply with every LimitRange of the request's namespace, in the order of their names, up to the first refusal.
func (p *limitRanger) each(ctx context.Context, a admission.Attributes, apply func([]corev1.LimitRangeItem) error) error {
	if !limited(a) {
		return nil
	}
	ranges, err := list[*corev1.LimitRange](ctx, p.reader, limitRanges, a.GetNamespace())
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	if len(ranges) == 0 {
		return nil
	}
	if old := a.GetOldObject(); old != nil {
		if m, err := meta.Accessor(old); err == nil && m.GetDeletionTimestamp() != nil {
			return nil
		}
	}
	for _, r := range ranges {
		if err := apply(r.Spec.Limits); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

// defaultResources gives the containers of a pod what a LimitRange defaults and they do not say.
func defaultResources(pod *corev1.Pod, limits []corev1.LimitRangeItem) {
	requests, ends := corev1.ResourceList{}, corev1.ResourceList{}
	for _, l := range limits {
		if l.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, l.DefaultRequest)
			maps.Copy(ends, l.Default)
		}
	}
	var said []string
	fill := func(what string, containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			for _, d := range []struct {
				kind string
				list *corev1.ResourceList
				want corev1.ResourceList
			}{{"request", &c.Resources.Requests, requests}, {"limit", &c.Resources.Limits, ends}} {
				if names := setMissing(d.list, d.want); len(names) > 0 {
					said = append(said, fmt.Sprintf("%s %s for %s %s", strings.Join(names, ", "), d.kind, what, c.Name))
				}
			}
		}
	}
	fill("container", pod.Spec.Containers)
	fill("init container", pod.Spec.InitContainers)
	if len(said) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitAnnotation] = "LimitRanger plugin set: " + strings.Join(said, "; ")
}

// setMissing adds what the list lacks and returns its names, sorted.
func setMissing(to *corev1.ResourceList, want corev1.ResourceList) []string {
	var names []string
	for name, q := range want {
		if _, has := (*to)[name]; has {
			continue
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[name] = q.DeepCopy()
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

// limitPod says what of a pod a LimitRange forbids.
func limitPod(pod *corev1.Pod, limits []corev1.LimitRangeItem) error {
	var errs []error
	for _, l := range limits {
		switch l.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for i := range containers {
					r := &containers[i].Resources
					errs = append(errs, limitUse(l, r.Requests, r.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			whole := helpers.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, limitUse(l, helpers.PodRequests(pod, whole), helpers.PodLimits(pod, whole))...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func limitUse(l corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for _, name := range names(l.Min) {
		errs = append(errs, tooLow(l.Type, name, l.Min[name], requests, limits)...)
	}
	for _, name := range names(l.Max) {
		errs = append(errs, tooHigh(l.Type, name, l.Max[name], requests, limits)...)
	}
	for _, name := range names(l.MaxLimitRequestRatio) {
		errs = append(errs, tooFarApart(l.Type, name, l.MaxLimitRequestRatio[name], requests, limits)...)
	}
	return errs
}

// limitClaim looks at what a claim asks for; limits mean nothing in a claim.
func limitClaim(claim *corev1.PersistentVolumeClaim, limits []corev1.LimitRangeItem) error {
	var errs []error
	requests := claim.Spec.Resources.Requests
	for _, l := range limits {
		if l.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		for _, name := range names(l.Min) {
			errs = append(errs, tooLow(l.Type, name, l.Min[name], requests, nil)...)
		}
		for _, name := range names(l.Max) {
			asked, has := requests[name]
			highest := l.Max[name]
			if !has {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, l.Type, highest.String()))
			} else if asked.Cmp(highest) > 0 {
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, l.Type, highest.String(), asked.String()))
			}
		}
	}
	return utilerrors.NewAggregate(errs)
}

// names are sorted, so that a refusal with several reasons reads the same every time.
func names(l corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(l)) }

func tooLow(per corev1.LimitType, name corev1.ResourceName, lowest resource.Quantity, requests, limits corev1.ResourceList) []error {
	text := fmt.Sprintf("minimum %s usage per %s is %s", name, per, lowest.String())
	request, has := requests[name]
	if !has {
		return []error{fmt.Errorf("%s.  No request is specified", text)}
	}
	if request.Cmp(lowest) < 0 {
		return []error{fmt.Errorf("%s, but request is %s", text, request.String())}
	}
	if limit, has := limits[name]; has && limit.Cmp(lowest) < 0 {
		return []error{fmt.Errorf("%s, but limit is %s", text, limit.String())}
	}
	return nil
}

func tooHigh(per corev1.LimitType, name corev1.ResourceName, highest resource.Quantity, requests, limits corev1.ResourceList) []error {
	text := fmt.Sprintf("maximum %s usage per %s is %s", name, per, highest.String())
	limit, has := limits[name]
	if !has {
		return []error{fmt.Errorf("%s.  No limit is specified", text)}
	}
	if limit.Cmp(highest) > 0 {
		return []error{fmt.Errorf("%s, but limit is %s", text, limit.String())}
	}
	if request, has := requests[name]; has && request.Cmp(highest) > 0 {
		return []error{fmt.Errorf("%s, but request is %s", text, request.String())}
	}
	return nil
}

func tooFarApart(per corev1.LimitType, name corev1.ResourceName, most resource.Quantity, requests, limits corev1.ResourceList) []error {
	text := fmt.Sprintf("%s max limit to request ratio per %s is %s, but", name, per, most.String())
	request, limit := requests[name], limits[name]
	if request.IsZero() {
		return []error{fmt.Errorf("%s no request is specified or request is 0", text)}
	}
	if limit.IsZero() {
		return []error{fmt.Errorf("%s no limit is specified or limit is 0", text)}
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > most.AsApproximateFloat64() {
		return []error{fmt.Errorf("%s provided ratio is %f", text, ratio)}
	}
	return nil
}
