package oracle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"mgr/resource"
)

// plain is an object as JSON, without type, empty values and what differs by design of the encoder.
func plain(obj runtime.Object) any {
	text, err := json.Marshal(obj)
	if err != nil {
		return "not JSON: " + err.Error()
	}
	var v map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &v); err != nil {
		return "not JSON: " + err.Error()
	}
	delete(v, "apiVersion")
	delete(v, "kind")
	return prune(v)
}

// prune removes nulls and empty lists, which the two sides write differently and readers do not tell apart.
func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			value = prune(value)
			if list, ok := value.([]any); value == nil || ok && len(list) == 0 {
				delete(v, key)
				continue
			}
			v[key] = value
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	}
	return v
}

// unequal lists the paths at which two JSON values differ, without the numbers of elements.
func unequal(path string, a, b any) []string {
	if ma, ok := a.(map[string]any); ok {
		if mb, ok := b.(map[string]any); ok {
			var all []string
			keys := maps.Clone(ma)
			maps.Copy(keys, mb)
			for _, key := range slices.Sorted(maps.Keys(keys)) {
				all = append(all, unequal(strings.TrimPrefix(path+"."+key, "."), ma[key], mb[key])...)
			}
			return all
		}
	}
	if la, ok := a.([]any); ok {
		if lb, ok := b.([]any); ok && len(la) == len(lb) {
			var all []string
			for i := range la {
				all = append(all, unequal(path+"[]", la[i], lb[i])...)
			}
			return all
		}
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return []string{path}
}

// sample is an object to try, as users would send it.
type sample struct {
	name string
	obj  runtime.Object
	doc  map[string]any // the same as JSON
	from *sample        // what this is a mutant of
}

func (s sample) String() string { return s.name }

// decode makes a sample of a JSON document; nil when the row's type cannot hold it, which both sides refuse alike.
func decode(k *resource.Kind, name string, doc map[string]any) *sample {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil
	}
	obj := k.New()
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, obj); err != nil {
		return nil
	}
	return &sample{name: name, obj: obj, doc: doc}
}

// documents splits a YAML text and gives what is of the row's kind.
func documents(t *testing.T, k *resource.Kind, file string, text []byte) []sample {
	t.Helper()
	var all []sample
	for i, part := range bytes.Split(text, []byte("\n---\n")) {
		var doc map[string]any
		if err := yaml.Unmarshal(part, &doc); err != nil {
			t.Fatalf("%s, document %d: %v", file, i+1, err)
		}
		if doc["kind"] != k.Kind || doc["apiVersion"] != k.GroupVersion().String() {
			continue
		}
		s := decode(k, fmt.Sprintf("%s#%d", filepath.Base(file), i+1), ints(doc).(map[string]any))
		if s == nil {
			t.Fatalf("%s, document %d is no %s", file, i+1, k.Kind)
		}
		all = append(all, *s)
	}
	return all
}

// ints turns whole numbers into int64, as JSON documents of Kubernetes have them.
func ints(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			v[key] = ints(v[key])
		}
	case []any:
		for i := range v {
			v[i] = ints(v[i])
		}
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	}
	return v
}

// corpus is what people wrote: testdata here and in package resource.
func corpus(t *testing.T, k *resource.Kind) []sample {
	t.Helper()
	var all []sample
	for _, pattern := range []string{"testdata/*.yaml", "../../resource/testdata/*.in.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, documents(t, k, file, text)...)
		}
	}
	return all
}

// apiModule is the folder of k8s.io/api in the module cache.
var apiModule = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	return strings.TrimSpace(string(out)), err
})

// golden objects have a value in every field, mostly not a valid one.
func golden(t *testing.T, k *resource.Kind) []sample {
	t.Helper()
	dir, err := apiModule()
	if err != nil {
		t.Fatalf("where is k8s.io/api: %v", err)
	}
	group := k.Group
	if group == "" {
		group = "core"
	}
	file := filepath.Join(dir, "testdata", "HEAD", group+"."+k.Version+"."+k.Kind+".json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &doc); err != nil {
		t.Fatal(err)
	}
	s := decode(k, "golden", doc)
	if s == nil {
		t.Fatalf("%s is no %s", file, k.Kind)
	}
	return []sample{*s}
}
