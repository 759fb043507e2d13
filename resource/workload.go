package resource

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// workload is what the kinds that make pods from a template have in common: a spec and a status with a path each,
// defaults and warnings of the template, and the wide columns that show it. Functions may be nil where nothing is to be
// done beyond that.
type workload[E, Spec, Status any, P object[E]] struct {
	spec     func(P) *Spec
	status   func(P) *Status
	template func(P) *corev1.PodTemplateSpec // nil when the user gave none
	at       *field.Path                     // of the template

	defaults func(P)
	// prepare changes what is given before status and generation are kept; changed says what counts as a new generation
	// besides the spec; prepareStatus keeps on the status path what is no status.
	prepare       func(obj, old P)
	changed       func(obj, old P) bool
	prepareStatus func(obj, old P)

	validate, validateStatus func(f *findings, obj, old P)
	warn                     func(obj, old P) []string

	columns  []metav1.TableColumnDefinition // without those of the template
	cells    func(P, time.Time) []any
	selector string         // description of the wide column; "": the kind has none
	selects  func(P) string // its cell
}

// on fills k, a row of E.
func (w workload[E, Spec, Status, P]) on(k *Kind) *Kind {
	k.Categories = []string{"all"}
	k.Default = defaulting(w.setDefaults)
	k.Rules = Rules{Prepare: preparing(w.prepareMain), Validate: validating(checked(w.validate)), Warn: w.warnings}
	k.Subresources = append(k.Subresources, statusRules(Rules{
		Prepare: preparing(func(obj, old P) {
			keepSpec(w.spec)(obj, old)
			if w.prepareStatus != nil {
				w.prepareStatus(obj, old)
			}
		}),
		Validate: validating(checked(w.validateStatus)),
	}))
	k.Columns = append(w.columns, wide(text("Containers", "Names of each container in the template.")),
		wide(text("Images", "Images referenced by each container in the template.")))
	if w.selects != nil {
		k.Columns = append(k.Columns, wide(text("Selector", w.selector)))
	}
	k.Cells = printing(w.allCells)
	return k
}

func (w workload[E, Spec, Status, P]) setDefaults(obj P) {
	if w.defaults != nil {
		w.defaults(obj)
	}
	if t := w.template(obj); t != nil {
		defaultPodSpec(&t.Spec)
	}
}

func (w workload[E, Spec, Status, P]) prepareMain(obj, old P) {
	if t := w.template(obj); t != nil {
		var was *corev1.PodSpec
		if old != nil && w.template(old) != nil {
			was = &w.template(old).Spec
		}
		dropAlphaPod(&t.Spec, was)
	}
	if w.prepare != nil {
		w.prepare(obj, old)
	}
	keepStatus(w.spec, w.status)(obj, old)
	if old != nil && w.changed != nil && w.changed(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

// warnings are those of the template, when it is new or the spec changed.
func (w workload[E, Spec, Status, P]) warnings(_ context.Context, obj, old runtime.Object) []string {
	is, was := as[E, P](obj), as[E, P](old)
	var out []string
	if w.warn != nil {
		out = w.warn(is, was)
	}
	if was == nil || is.GetGeneration() != was.GetGeneration() {
		out = append(out, warnPodTemplate(w.template(is), w.at)...)
	}
	return out
}

func (w workload[E, Spec, Status, P]) allCells(obj P, now time.Time) []any {
	var names, images string
	if t := w.template(obj); t != nil {
		names, images = containerCells(t.Spec.Containers)
	}
	cells := append(w.cells(obj, now), names, images)
	if w.selects != nil {
		cells = append(cells, w.selects(obj))
	}
	return cells
}

// replicaColumns are those of ReplicaSets and ReplicationControllers.
func replicaColumns(desired, current, ready string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(), number("Desired", desired), number("Current", current), number("Ready", ready), ageColumn(),
	}
}

// specTemplate is where the template is in most workloads.
func specTemplate() *field.Path { return field.NewPath("spec", "template") }

// warnOwnerName warns of the name of a new object that its pods' names, and so their hostnames, begin with.
func warnOwnerName[E any, P object[E]](obj, old P) []string {
	if msgs := validation.IsDNS1123Label(obj.GetName()); old == nil && len(msgs) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
	}
	return nil
}
