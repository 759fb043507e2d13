package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"

	"mgr/resource"
)

// Columns and cells of kubectl get, -o wide included, are those of Kubernetes.
func TestTable(t *testing.T) {
	human := printerstorage.TableConvertor{TableGenerator: printers.NewTableGenerator().With(printersinternal.AddHandlers)}
	eachKind(t, func(t *testing.T, k *resource.Kind, _ counterpart) {
		count := newTally()
		for _, s := range slices.Concat(corpus(t, k), printed(t, k), golden(t, k), generated(t, k)) {
			if kept := stored(t, k, s); kept != nil {
				s = *kept
			} else if s.doc["stringData"] != nil {
				continue // is never kept
			}
			obj, err := internal(s.obj)
			if err != nil {
				t.Fatal(err)
			}
			if err := stamp(obj); err != nil {
				t.Fatal(err)
			}
			var convertor rest.TableConvertor = human
			want, err := convertor.ConvertToTable(context.Background(), obj, nil)
			if err != nil { // no printer: name and time of creation
				want = &metav1.Table{}
			}
			count.objects++
			ours := s.obj.DeepCopyObject()
			if k.Default != nil {
				k.Default(ours)
			}
			if err := stamp(ours); err != nil {
				t.Fatal(err)
			}
			count.table(k, s, ours, want)
		}
		count.report(t)
	})
}

func (c *tally) table(k *resource.Kind, s sample, obj runtime.Object, want *metav1.Table) {
	if len(want.Rows) != 1 || len(k.Columns) == 0 {
		if len(want.ColumnDefinitions) > 0 || len(k.Columns) > 0 {
			c.note(name(k), s, difference{"table", "both", fmt.Sprintf("ours %d columns, upstream %d", len(k.Columns), len(want.ColumnDefinitions))})
		}
		return
	}
	c.accepted++
	for i, column := range want.ColumnDefinitions {
		if i >= len(k.Columns) {
			c.note(name(k), s, difference{"table column " + column.Name, "upstream", ""})
			return
		}
		if a, b := text(k.Columns[i]), text(column); a != b {
			c.note(name(k), s, difference{"table column " + column.Name, "both", a + "\n      " + b})
		}
	}
	cells := k.Cells(obj, time.Now())
	for i, column := range want.ColumnDefinitions {
		var mine any
		if i < len(cells) {
			mine = cells[i]
		}
		if a, b := text(mine), text(want.Rows[0].Cells[i]); a != b {
			c.note(name(k), s, difference{"table cell " + column.Name, "both", "ours " + a + ", upstream " + b})
		}
	}
}

func text(v any) string {
	t, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(t)
}

// printed are objects in states that only controllers and nodes bring about.
func printed(t *testing.T, k *resource.Kind) []sample {
	t.Helper()
	var all []sample
	for _, m := range mutants(k, corpus(t, k)...) {
		if _, change, _ := strings.Cut(m.name, " "); strings.Contains(change, "status") || len(all) < 200 {
			all = append(all, m)
		}
	}
	return all
}

// What can be selected by field, and the values, are those of Kubernetes.
func TestFields(t *testing.T) {
	eachKind(t, func(t *testing.T, k *resource.Kind, c counterpart) {
		count := newTally()
		for _, s := range slices.Concat(corpus(t, k), printed(t, k), golden(t, k), generated(t, k)) {
			count.objects++
			want := fields.Set{}
			if c.attrs != nil {
				obj, err := internal(s.obj)
				if err != nil {
					t.Fatal(err)
				}
				if _, want, err = c.attrs(obj); err != nil {
					t.Fatal(err)
				}
				delete(want, "metadata.name")
				delete(want, "metadata.namespace")
			}
			got := fields.Set{}
			if k.Fields != nil {
				obj := s.obj.DeepCopyObject()
				if k.Default != nil {
					k.Default(obj)
				}
				maps.Copy(got, k.Fields(obj))
			}
			delete(got, "metadata.name")
			delete(got, "metadata.namespace")
			count.fields(k, s, got, want)
		}
		count.report(t)
	})
}

// fields compares what can be selected: upstream's set is by internal names, which each version's may be converted to.
func (c *tally) fields(k *resource.Kind, s sample, got, want fields.Set) {
	names := fields.Set{}
	maps.Copy(names, got)
	maps.Copy(names, want)
	for key := range names {
		mine, ours := got[key]
		internal, _, err := legacyscheme.Scheme.ConvertFieldLabel(k.GVK(), key, mine)
		switch value, found := want[internal]; {
		case err != nil || !found:
			if ours {
				c.note(name(k), s, difference{"field " + key, "ours", mine})
			}
		case !ours:
			// Under another name, perhaps: then that name is in got, too.
			if internal == key && !converted(k, got, key) {
				c.note(name(k), s, difference{"field " + key, "upstream", value})
			}
		case mine != value:
			c.note(name(k), s, difference{"field " + key, "both", fmt.Sprintf("ours %q, upstream %q", mine, value)})
		}
	}
	c.accepted++
}

// converted says whether one of the served names stands for an internal one.
func converted(k *resource.Kind, served fields.Set, internal string) bool {
	for key := range served {
		if to, _, err := legacyscheme.Scheme.ConvertFieldLabel(k.GVK(), key, ""); err == nil && to == internal {
			return true
		}
	}
	return false
}
