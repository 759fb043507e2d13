package resource

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

// eventsEvent serves core's events in the form of events.k8s.io/v1.
func eventsEvent(core *Kind) *Kind {
	k := row[eventsv1.Event, eventsv1.EventList](eventsv1.SchemeGroupVersion, "Event", "events", "ev")
	k.Stored = core
	k.CreateOnUpdate, k.TTL = core.CreateOnUpdate, core.TTL
	k.ToStored = func(served runtime.Object) (runtime.Object, error) {
		e, ok := served.(*eventsv1.Event)
		if !ok {
			return nil, fmt.Errorf("convert to core event: got %T", served)
		}
		return toCoreEvent(e), nil
	}
	k.FromStored = func(stored runtime.Object) (runtime.Object, error) {
		e, ok := stored.(*corev1.Event)
		if !ok {
			return nil, fmt.Errorf("convert from core event: got %T", stored)
		}
		return fromCoreEvent(e), nil
	}
	k.Fields = reading(func(e *eventsv1.Event) fields.Set {
		set := eventFields(toCoreEvent(e), "regarding", "reportingController")
		delete(set, "source") // which this version does not select by
		return set
	})
	k.Rules = Rules{Validate: validating(checked(validateEventsEvent))}
	k.Columns = core.Columns
	k.Cells = printing(func(e *eventsv1.Event, now time.Time) []any { return eventCells(toCoreEvent(e), now) })
	return k
}

func toCoreEvent(e *eventsv1.Event) *corev1.Event {
	e = e.DeepCopy()
	out := &corev1.Event{
		ObjectMeta:          e.ObjectMeta,
		InvolvedObject:      e.Regarding,
		Related:             e.Related,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Action:              e.Action,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
	if e.Series != nil {
		out.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	out.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	return out
}

func fromCoreEvent(e *corev1.Event) *eventsv1.Event {
	e = e.DeepCopy()
	out := &eventsv1.Event{
		ObjectMeta:               e.ObjectMeta,
		EventTime:                e.EventTime,
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
		Action:                   e.Action,
		Reason:                   e.Reason,
		Regarding:                e.InvolvedObject,
		Related:                  e.Related,
		Note:                     e.Message,
		Type:                     e.Type,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
	}
	if e.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	out.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	return out
}
