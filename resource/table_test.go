package resource

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Every row must be whole and agree with the scheme and with itself.
func TestRows(t *testing.T) {
	short := map[string]schema.GroupVersionResource{}
	for _, k := range All() {
		t.Run(k.GroupVersionResource.String(), func(t *testing.T) {
			obj, list := k.New(), k.NewList()
			checkType(t, obj, k.GVK())
			checkType(t, list, k.GroupVersion().WithKind(k.Kind+"List"))
			if _, err := meta.ExtractList(list); err != nil {
				t.Errorf("NewList: %v", err)
			}
			if k.Singular != strings.ToLower(k.Kind) || k.Resource != strings.ToLower(k.Resource) {
				t.Errorf("names %q, %q", k.Singular, k.Resource)
			}
			for _, name := range k.ShortNames {
				if other, taken := short[name]; taken && other.Resource != k.Resource {
					t.Errorf("short name %q belongs to %v", name, other)
				}
				short[name] = k.GroupVersionResource
			}
			if Lookup(k.GroupVersionResource) != k || LookupKind(k.GVK()) != k {
				t.Error("Lookup finds another row")
			}
			if k.Validate == nil {
				t.Error("no validation")
			}
			if (k.ToStored == nil) != (k.Stored == nil) || (k.FromStored == nil) != (k.Stored == nil) {
				t.Error("Stored and its conversions must come together")
			}
			if own := k; k.Stored != nil {
				own = k.Stored
				if Storage(k.Storage()) != own {
					t.Error("Storage must be the stored row")
				}
			} else if Storage(k.Storage()) != own {
				t.Error("Storage finds another row")
			}
			checkTable(t, k)
			checkSubresources(t, k)
		})
	}
}

func checkType(t *testing.T, o runtime.Object, want schema.GroupVersionKind) {
	t.Helper()
	kinds, _, err := Scheme.ObjectKinds(o)
	if err != nil || !slices.Contains(kinds, want) {
		t.Errorf("%T: %v, %v; want %v", o, kinds, err, want)
	}
}

func checkTable(t *testing.T, k *Kind) {
	t.Helper()
	if k.Columns == nil && k.Cells == nil {
		return // name and creation time
	}
	cells := k.Cells(k.New(), time.Now())
	if len(cells) != len(k.Columns) {
		t.Fatalf("%d cells for %d columns", len(cells), len(k.Columns))
	}
	for i, c := range k.Columns {
		if c.Name == "" || c.Type == "" || c.Description == "" {
			t.Errorf("column %+v is not described", c)
		}
		switch cells[i].(type) {
		case string, int64, bool:
		default:
			t.Errorf("column %s: cell is %T", c.Name, cells[i])
		}
	}
}

func checkSubresources(t *testing.T, k *Kind) {
	t.Helper()
	if !slices.IsSortedFunc(k.Subresources, func(a, b Subresource) int { return strings.Compare(a.Name, b.Name) }) && k.Resource != "namespaces" {
		t.Error("subresources are not sorted")
	}
	for _, s := range k.Subresources {
		if len(s.Verbs) == 0 {
			t.Errorf("%s has no verbs", s.Name)
		}
		if !s.Kind.Empty() && !Scheme.Recognizes(s.Kind) {
			t.Errorf("%s: unknown kind %v", s.Name, s.Kind)
		}
		if s.Rules != nil && (s.Rules.Prepare == nil || s.Rules.Validate == nil) {
			t.Errorf("%s: rules are not whole", s.Name)
		}
	}
}

// Rules read and write what they are given and must stand empty objects: a client may send just a name.
func TestRulesStandEmptyObjects(t *testing.T) {
	ctx := context.Background()
	for _, k := range All() {
		for _, old := range []runtime.Object{nil, k.New()} {
			obj := k.New()
			if k.Default != nil {
				k.Default(obj)
			}
			if k.Prepare != nil {
				k.Prepare(ctx, obj, old)
			}
			k.Validate(ctx, obj, old)
			if k.Claims != nil {
				k.Claims(obj)
			}
			if k.Fields != nil {
				k.Fields(obj)
			}
			if k.Graceful != nil {
				k.Graceful(obj, &metav1.DeleteOptions{})
			}
			for _, s := range k.Subresources {
				if s.Rules != nil && old != nil {
					s.Rules.Prepare(ctx, obj, old)
					s.Rules.Validate(ctx, obj, old)
				}
			}
		}
	}
}

// Defaulting twice is defaulting once: objects are defaulted again each time they are read back and sent.
func TestDefaultsAreStable(t *testing.T) {
	for _, c := range examples(t) {
		k := LookupKind(c.GetObjectKind().GroupVersionKind())
		if k.Default == nil {
			continue
		}
		once := c.DeepCopyObject()
		k.Default(once)
		twice := once.DeepCopyObject()
		k.Default(twice)
		if !reflect.DeepEqual(once, twice) {
			t.Errorf("%v changes when defaulted again", k.GVK())
		}
	}
}
