package resource

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateCoreEvent: old writers leave eventTime out and are let through; the new fields come with their rules.
func validateCoreEvent(f *findings, e, old *corev1.Event) {
	if old != nil {
		plainMetadata(f, e, old, true, apivalidation.NameIsDNSSubdomain)
	}
	eventBasics(f, e, "reportingComponent")
}

// eventBasics are the rules of both versions; reporter is the name of the reporting controller's field.
func eventBasics(f *findings, e *corev1.Event, reporter string) {
	about := field.NewPath("involvedObject", "namespace")
	const elsewhere = "does not match event.namespace"
	named, ns := e.InvolvedObject.Namespace, e.Namespace
	if e.EventTime.IsZero() {
		clusterScoped := named == "" && (ns == "" || ns == metav1.NamespaceDefault)
		if named != ns && !clusterScoped {
			f.invalid(about, named, elsewhere)
		}
		return
	}
	if named == "" && ns != metav1.NamespaceDefault && ns != metav1.NamespaceSystem {
		f.invalid(about, named, elsewhere)
	}
	f.given(field.NewPath(reporter), e.ReportingController)
	f.qualifiedName(field.NewPath(reporter), e.ReportingController)
	f.given(field.NewPath("reportingInstance"), e.ReportingInstance)
	f.given(field.NewPath("action"), e.Action)
	f.given(field.NewPath("reason"), e.Reason)
	for _, limited := range []struct {
		name, value string
		longest     int
	}{{"reportingInstance", e.ReportingInstance, 128}, {"action", e.Action, 128}, {"reason", e.Reason, 128}, {"message", e.Message, 1024}} {
		if len(limited.value) > limited.longest {
			f.invalid(field.NewPath(limited.name), "", fmt.Sprintf("can have at most %v characters", limited.longest))
		}
	}
}

// validateEventsEvent: an event of the new API is written once; only its series changes.
func validateEventsEvent(f *findings, served, oldServed *eventsv1.Event) {
	metadata(f, served, oldServed, true, apivalidation.NameIsDNSSubdomain)
	e := toCoreEvent(served)
	eventBasics(f, e, "reportingController")
	if s := e.Series; s != nil {
		if s.Count < 2 {
			f.invalid(field.NewPath("series.count"), "", "should be at least 2")
		}
		if s.LastObservedTime.IsZero() {
			f.required(field.NewPath("series.lastObservedTime"), "")
		}
	}
	if oldServed != nil {
		eventChange(f, e, toCoreEvent(oldServed))
		return
	}
	if e.EventTime.IsZero() {
		f.required(field.NewPath("eventTime"), "")
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		f.invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type))
	}
	for name, set := range map[string]bool{
		"firstTimestamp": !e.FirstTimestamp.IsZero(),
		"lastTimestamp":  !e.LastTimestamp.IsZero(),
		"count":          e.Count != 0,
		"source":         e.Source != corev1.EventSource{},
	} {
		if set {
			f.invalid(field.NewPath(name), "", "needs to be unset")
		}
	}
}

func eventChange(f *findings, e, old *corev1.Event) {
	same := func(name string, value, was any) { f.immutable(field.NewPath(name), value, was) }
	same("involvedObject", e.InvolvedObject, old.InvolvedObject)
	same("reason", e.Reason, old.Reason)
	same("message", e.Message, old.Message)
	same("source", e.Source, old.Source)
	same("firstTimestamp", e.FirstTimestamp, old.FirstTimestamp)
	same("lastTimestamp", e.LastTimestamp, old.LastTimestamp)
	same("count", e.Count, old.Count)
	same("type", e.Type, old.Type)
	same("eventTime", microseconds(e.EventTime), microseconds(old.EventTime))
	same("action", e.Action, old.Action)
	same("related", e.Related, old.Related)
	same("reportingController", e.ReportingController, old.ReportingController)
	same("reportingInstance", e.ReportingInstance, old.ReportingInstance)
}

// microseconds is as much of a time as its JSON keeps.
func microseconds(t metav1.MicroTime) metav1.MicroTime {
	return metav1.NewMicroTime(t.Truncate(time.Microsecond))
}
