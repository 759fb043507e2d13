package resource

import (
	"encoding/json"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validateControllerRevision(f *findings, r, old *appsv1.ControllerRevision) {
	metadata(f, r, nil, true, apivalidation.NameIsDNSSubdomain)
	f.nonNegative(field.NewPath("revision"), r.Revision)
	at := field.NewPath("data")
	if old != nil {
		metadata(f, r, old, true, apivalidation.NameIsDNSSubdomain)
		f.immutable(at, r.Data, old.Data)
		return
	}
	var data any
	err := json.Unmarshal(r.Data.Raw, &data)
	switch {
	case r.Data.Raw == nil, err == nil && data == nil:
		f.required(at, "data is mandatory")
	case err != nil:
		f.invalid(at, "<value omitted>", "error parsing data: "+err.Error())
	default:
		if _, is := data.(map[string]any); !is {
			f.required(at, "data must be a valid JSON object")
		}
	}
}

func validateDaemonSet(f *findings, ds, old *appsv1.DaemonSet) {
	metadata(f, ds, old, true, apivalidation.NameIsDNSSubdomain)
	readableTemplateCount(f, ds)
	path, spec := field.NewPath("spec"), &ds.Spec
	at, template := path.Child("selector"), path.Child("template")
	f.ratchetedSelector(at, spec.Selector, old != nil && badSelector(old.Spec.Selector))
	selectsTemplate(f, spec.Selector, spec.Template.Labels, template)
	if s := spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		f.invalid(at, s, "empty selector is invalid for daemonset")
	}
	podTemplate(f, &spec.Template, template)
	restartedForEver(f, &spec.Template, "DaemonSet", template)
	f.nonNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	daemonSetStrategy(f, &spec.UpdateStrategy, path.Child("updateStrategy"))
	f.nonNegative(path.Child("revisionHistoryLimit"), int64(ptr.Deref(spec.RevisionHistoryLimit, 0)))
	if old != nil {
		f.immutable(at, spec.Selector, old.Spec.Selector)
	}
}

// readableTemplateCount; see countTemplates.
func readableTemplateCount(f *findings, ds *appsv1.DaemonSet) {
	if _, err := templateCount(ds); err != nil {
		f.invalid(field.NewPath("metadata", "annotations").Key(appsv1.DeprecatedTemplateGeneration),
			ds.Annotations[appsv1.DeprecatedTemplateGeneration], err.Error())
	}
}

// selectsTemplate: what a workload makes must be what it selects. Selectors that cannot be read have findings of their own.
func selectsTemplate(f *findings, s *metav1.LabelSelector, labels map[string]string, template *field.Path) {
	if selector, err := metav1.LabelSelectorAsSelector(s); err == nil && !selector.Matches(labelSet(labels)) {
		f.invalid(template.Child("metadata", "labels"), labels, "`selector` does not match template `labels`")
	}
}

func daemonSetStrategy(f *findings, s *appsv1.DaemonSetUpdateStrategy, path *field.Path) {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			f.required(rolling, "")
			return
		}
		surge := ptr.Deref(s.RollingUpdate.MaxSurge, intstr.IntOrString{})
		less := share(f, ptr.Deref(s.RollingUpdate.MaxUnavailable, intstr.IntOrString{}), rolling.Child("maxUnavailable"))
		more := share(f, surge, rolling.Child("maxSurge"))
		switch {
		case less != 0 && more != 0:
			f.invalid(rolling.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero")
		case less == 0 && more == 0:
			f.required(rolling.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
		}
	default:
		f.add(field.NotSupported(path, s, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
}

func validateDaemonSetStatus(f *findings, ds, old *appsv1.DaemonSet) {
	metadata(f, ds, old, true, apivalidation.NameIsDNSSubdomain)
	readableTemplateCount(f, ds)
	path, s := field.NewPath("status"), &ds.Status
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"currentNumberScheduled", int64(s.CurrentNumberScheduled)},
		{"numberMisscheduled", int64(s.NumberMisscheduled)},
		{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)},
		{"numberReady", int64(s.NumberReady)},
		{"observedGeneration", s.ObservedGeneration},
		{"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		{"numberAvailable", int64(s.NumberAvailable)},
		{"numberUnavailable", int64(s.NumberUnavailable)},
	} {
		f.nonNegative(path.Child(n.name), n.value)
	}
	collisions(f, s.CollisionCount, old.Status.CollisionCount, path)
}

// collisions are counted and never forgotten: names of revisions come from the count.
func collisions(f *findings, n, was *int32, status *field.Path) {
	at := status.Child("collisionCount")
	f.nonNegative(at, int64(ptr.Deref(n, 0)))
	if was != nil && (n == nil || *n < *was) {
		f.invalid(at, ptr.Deref(n, 0), "cannot be decremented")
	}
}
