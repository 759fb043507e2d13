package api

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"mgr/resource"
)

// tables makes the metav1.Table of one row, which is what kubectl get prints.
type tables struct{ kind *resource.Kind }

var nameAndAge = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
	{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
}

// ConvertToTable implements rest.TableConvertor.
func (t tables) ConvertToTable(ctx context.Context, object runtime.Object, tableOptions runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	add := t.adder(table, nowOf(ctx))
	if meta.IsListType(object) {
		if err := meta.EachListItem(object, add); err != nil {
			return nil, err
		}
		t.mark(table)
	} else if err := add(object); err != nil {
		return nil, err
	}
	if m, err := meta.ListAccessor(object); err == nil {
		table.ResourceVersion, table.Continue = m.GetResourceVersion(), m.GetContinue()
		table.RemainingItemCount = m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(object); err == nil {
		table.ResourceVersion = m.GetResourceVersion()
	}
	if o, ok := tableOptions.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = t.kind.Columns
		if len(t.kind.Columns) == 0 {
			table.ColumnDefinitions = nameAndAge
		}
	}
	return table, nil
}

// mark puts "(default)" behind the name of the one object that the kind says.
func (t tables) mark(table *metav1.Table) {
	if t.kind.Marked == nil {
		return
	}
	all := make([]runtime.Object, len(table.Rows))
	for i, r := range table.Rows {
		all[i] = r.Object.Object
	}
	name := t.kind.Marked(all)
	for _, r := range table.Rows {
		if name != "" && r.Cells[0] == name {
			r.Cells[0] = name + " (default)"
		}
	}
}

func (t tables) adder(table *metav1.Table, at time.Time) func(runtime.Object) error {
	return func(obj runtime.Object) error {
		m, err := meta.Accessor(obj)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		cells := []any{m.GetName(), m.GetCreationTimestamp().UTC().Format(time.RFC3339)}
		if t.kind.Cells != nil && len(t.kind.Columns) > 0 {
			cells = t.kind.Cells(obj, at)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: obj}})
		return nil
	}
}

func age(t metav1.Time, at time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(at.Sub(t.Time))
}
