package resource

import (
	"maps"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func daemonSet() *Kind {
	k := row[appsv1.DaemonSet, appsv1.DaemonSetList](appsv1.SchemeGroupVersion, "DaemonSet", "daemonsets", "ds")
	doc := appsv1.DaemonSetStatus{}.SwaggerDoc()
	return workload[appsv1.DaemonSet, appsv1.DaemonSetSpec, appsv1.DaemonSetStatus, *appsv1.DaemonSet]{
		spec:           func(ds *appsv1.DaemonSet) *appsv1.DaemonSetSpec { return &ds.Spec },
		status:         func(ds *appsv1.DaemonSet) *appsv1.DaemonSetStatus { return &ds.Status },
		template:       func(ds *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &ds.Spec.Template },
		at:             specTemplate(),
		defaults:       defaultDaemonSet,
		prepare:        prepareDaemonSet,
		prepareStatus:  keepTemplateCount,
		validate:       validateDaemonSet,
		validateStatus: validateDaemonSetStatus,
		columns: []metav1.TableColumnDefinition{
			nameColumn(),
			number("Desired", doc["desiredNumberScheduled"]),
			number("Current", doc["currentNumberScheduled"]),
			number("Ready", doc["numberReady"]),
			number("Up-to-date", doc["updatedNumberScheduled"]),
			number("Available", doc["numberAvailable"]),
			text("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
			ageColumn(),
		},
		cells: func(ds *appsv1.DaemonSet, now time.Time) []any {
			s := &ds.Status
			return []any{ds.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
				int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable),
				labels.FormatLabels(ds.Spec.Template.Spec.NodeSelector), age(ds.CreationTimestamp, now)}
		},
		selector: appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"],
		selects:  func(ds *appsv1.DaemonSet) string { return metav1.FormatLabelSelector(ds.Spec.Selector) },
	}.on(k)
}

func defaultDaemonSet(ds *appsv1.DaemonSet) {
	strategy := &ds.Spec.UpdateStrategy
	setDefault(&strategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if strategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setDefaultPtr(&strategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setDefaultPtr(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		setDefaultPtr(&strategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	setDefaultPtr(&ds.Spec.RevisionHistoryLimit, 10)
}

// prepareDaemonSet: limits of a strategy that has none of its own read back as zero.
func prepareDaemonSet(ds, old *appsv1.DaemonSet) {
	if rolling := ds.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		setDefaultPtr(&rolling.MaxUnavailable, intstr.FromInt32(0))
		setDefaultPtr(&rolling.MaxSurge, intstr.FromInt32(0))
	}
	countTemplates(ds, old)
}

// countTemplates keeps the number of templates the set has had in an annotation, where apps/v1 shows what was a field
// before it. Users cannot set it but on create; what is no number stays for validation to refuse.
func countTemplates(ds, old *appsv1.DaemonSet) {
	n, err := templateCount(ds)
	if err != nil {
		return
	}
	if n = max(n, 1); old != nil {
		n, _ = templateCount(old)
		if !apiequality.Semantic.DeepEqual(ds.Spec.Template, old.Spec.Template) {
			n++
		}
	}
	setTemplateCount(ds, n)
}

func keepTemplateCount(ds, old *appsv1.DaemonSet) {
	if _, err := templateCount(ds); err != nil {
		return
	}
	n, _ := templateCount(old)
	setTemplateCount(ds, n)
}

// templateCount is 0 for a set that has no annotation yet.
func templateCount(ds *appsv1.DaemonSet) (int64, error) {
	text, noted := ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	if !noted {
		return 0, nil
	}
	return strconv.ParseInt(text, 10, 64)
}

func setTemplateCount(ds *appsv1.DaemonSet, n int64) {
	// A copy: managed fields and admission may still look at what the user sent.
	ds.Annotations = maps.Clone(ds.Annotations)
	metav1.SetMetaDataAnnotation(&ds.ObjectMeta, appsv1.DeprecatedTemplateGeneration, strconv.FormatInt(n, 10))
}
