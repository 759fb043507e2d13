package resource

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// eventTTL is how long an event stays that is not repeated.
const eventTTL = time.Hour

func coreEvent() *Kind {
	k := row[corev1.Event, corev1.EventList](corev1.SchemeGroupVersion, "Event", "events", "ev")
	k.CreateOnUpdate = true
	k.TTL = eventTTL
	k.Fields = reading(func(e *corev1.Event) fields.Set { return eventFields(e, "involvedObject", "reportingComponent") })
	k.Rules = Rules{Validate: validating(checked(validateCoreEvent))}
	k.Columns = eventColumns()
	k.Cells = printing(eventCells)
	return k
}

// eventFields of an event, under the names that the served version gives to the object and the reporter.
func eventFields(e *corev1.Event, object, reporter string) fields.Set {
	return fields.Set{
		object + ".kind":            e.InvolvedObject.Kind,
		object + ".namespace":       e.InvolvedObject.Namespace,
		object + ".name":            e.InvolvedObject.Name,
		object + ".uid":             string(e.InvolvedObject.UID),
		object + ".apiVersion":      e.InvolvedObject.APIVersion,
		object + ".resourceVersion": e.InvolvedObject.ResourceVersion,
		object + ".fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                    e.Reason,
		reporter:                    e.ReportingController,
		"source":                    or(e.Source.Component, e.ReportingController),
		"type":                      e.Type,
	}
}

func eventColumns() []metav1.TableColumnDefinition {
	doc := corev1.Event{}.SwaggerDoc()
	name := nameColumn()
	name.Priority = 1
	return []metav1.TableColumnDefinition{
		text("Last Seen", doc["lastTimestamp"]),
		text("Type", doc["type"]),
		text("Reason", doc["reason"]),
		text("Object", doc["involvedObject"]),
		wide(text("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"])),
		wide(text("Source", doc["source"])),
		text("Message", doc["message"]),
		wide(text("First Seen", doc["firstTimestamp"])),
		wide(text("Count", doc["count"])),
		name,
	}
}

func eventCells(e *corev1.Event, now time.Time) []any {
	first, last, count := age(e.FirstTimestamp, now), age(e.LastTimestamp, now), e.Count
	if e.FirstTimestamp.IsZero() {
		first = age(metav1.Time(e.EventTime), now)
	}
	if e.LastTimestamp.IsZero() {
		last = first
	}
	switch {
	case e.Series != nil:
		last, count = age(metav1.Time(e.Series.LastObservedTime), now), e.Series.Count
	case count == 0:
		count = 1
	}
	target := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		target += "/" + e.InvolvedObject.Name
	}
	source := or(e.Source.Component, e.ReportingController)
	if host := or(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message),
		first, int64(count), e.Name}
}
