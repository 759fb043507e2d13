package api

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"mgr/resource"
)

// exampleObjects are the examples of package resource, with defaults, as a create finds them.
func exampleObjects(t *testing.T) []runtime.Object {
	t.Helper()
	files, err := filepath.Glob("../resource/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	var all []runtime.Object
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range bytes.Split(text, []byte("\n---\n")) {
			var head metav1.TypeMeta
			if err := yaml.Unmarshal(doc, &head); err != nil {
				t.Fatal(err)
			}
			k := resource.LookupKind(schema.FromAPIVersionAndKind(head.APIVersion, head.Kind))
			if k == nil {
				t.Fatalf("%s: no row for %v", f, head)
			}
			obj := k.New()
			if err := yaml.Unmarshal(doc, obj); err != nil {
				t.Fatal(err)
			}
			if k.Default != nil {
				k.Default(obj)
			}
			all = append(all, obj)
		}
	}
	return all
}

// The walk finds exactly the fields that the library finds, for every example and for nearly all without its help.
func TestFieldSetEqualsLibrary(t *testing.T) {
	types := applyconfigurations.NewTypeConverter(resource.Scheme)
	own := 0
	objects := exampleObjects(t)
	for _, obj := range objects {
		k := resource.LookupKind(obj.GetObjectKind().GroupVersionKind())
		m, err := meta.Accessor(obj)
		if err != nil {
			t.Fatal(err)
		}
		library, err := managedfields.NewDefaultFieldManager(types, newConvertor(k), rowDefaulter{k}, resource.Scheme, k.GVK(), k.GroupVersion(), "", resetFields(k, ""))
		if err != nil {
			t.Fatal(err)
		}
		out, err := library.Update(k.New(), obj.DeepCopyObject(), "test")
		if err != nil {
			t.Fatalf("%s %s: %v", k.Kind, m.GetName(), err)
		}
		om, err := meta.Accessor(out)
		if err != nil {
			t.Fatal(err)
		}
		create, err := newCreator(k, types)
		if err != nil {
			t.Fatal(err)
		}
		m.SetManagedFields(nil)
		if !create.manage(obj, m, "test") {
			t.Logf("%s %s is left to the library", k.Kind, m.GetName())
			continue
		}
		own++
		want, got := om.GetManagedFields(), m.GetManagedFields()
		for _, entries := range [][]metav1.ManagedFieldsEntry{want, got} {
			for i := range entries {
				if entries[i].Time == nil {
					t.Errorf("%s %s: no time", k.Kind, m.GetName())
				}
				entries[i].Time = nil
			}
		}
		wantJSON, werr := json.Marshal(want)
		gotJSON, gerr := json.Marshal(got)
		if werr != nil || gerr != nil {
			t.Fatal(werr, gerr)
		}
		if !bytes.Equal(wantJSON, gotJSON) {
			t.Errorf("%s %s:\nlibrary %s\nhere    %s", k.Kind, m.GetName(), wantJSON, gotJSON)
		}
	}
	t.Logf("%d of %d objects without the library", own, len(objects))
	if own*10 < len(objects)*9 {
		t.Errorf("only %d of %d objects were done without the library", own, len(objects))
	}
}

// Stored bytes decode to the same object by the quick decoder as by Kubernetes' own.
func TestDecodersAgree(t *testing.T) {
	for _, obj := range exampleObjects(t) {
		k := resource.LookupKind(obj.GetObjectKind().GroupVersionKind())
		data, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		want, got := k.New(), k.New()
		if err := kjson.UnmarshalCaseSensitivePreserveInts(data, want); err != nil {
			t.Fatal(err)
		}
		if err := jsonv2.Unmarshal(data, got); err != nil {
			t.Errorf("%s: %v", k.Kind, err)
		} else if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: decoded to\n%+v\nnot\n%+v", k.Kind, got, want)
		}
	}
}
