package resource

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write testdata/*.golden.yaml anew")

// decode reads the objects of a YAML text with several documents.
func decode(t *testing.T, text []byte) []runtime.Object {
	t.Helper()
	var all []runtime.Object
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(doc, &head); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		group, version, found := strings.Cut(head.APIVersion, "/")
		if !found {
			group, version = "", head.APIVersion
		}
		k := LookupKind(schema.GroupVersionKind{Group: group, Version: version, Kind: head.Kind})
		if k == nil {
			t.Fatalf("no row for %s %s", head.APIVersion, head.Kind)
		}
		obj := k.New()
		if err := yaml.UnmarshalStrict(doc, obj); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		all = append(all, obj)
	}
	return all
}

func examples(t *testing.T) []runtime.Object {
	t.Helper()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []runtime.Object
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, decode(t, text)...)
	}
	return all
}

// What users write and what the API server makes of it: defaults, Prepare, allocation.
func TestCreated(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, obj := range decode(t, text) {
				if errs := create(t, obj); len(errs) > 0 {
					t.Errorf("refused: %v", errs.ToAggregate())
				}
				out, err := yaml.Marshal(obj)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(out))
			}
			golden(t, strings.TrimSuffix(f, ".in.yaml")+".golden.yaml", strings.Join(got, "---\n"))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

// create does with an object what the API server does on POST.
func create(t *testing.T, obj runtime.Object) field.ErrorList {
	t.Helper()
	k := LookupKind(obj.GetObjectKind().GroupVersionKind())
	if k == nil {
		t.Fatalf("no row for %v", obj.GetObjectKind().GroupVersionKind())
	}
	if k.Default != nil {
		k.Default(obj)
	}
	if k.Prepare != nil {
		k.Prepare(At(context.Background(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), obj, nil)
	}
	if k.Allocate != nil {
		if err := k.Allocate(obj, nil, &countingAllocator{}); err != nil {
			t.Fatalf("allocate: %v", err)
		}
	}
	return k.Validate(context.Background(), obj, nil)
}

// countingAllocator hands out 10.43.0.1, 10.43.0.2, … and 30001, 30002, …
type countingAllocator struct{ picked int }

func (a *countingAllocator) Pick(space string) (string, error) {
	a.picked++
	switch space {
	case "clusterip":
		return fmt.Sprintf("10.43.0.%d", a.picked), nil
	case "nodeport":
		return strconv.Itoa(30000 + a.picked), nil
	case "podcidr":
		return fmt.Sprintf("10.42.%d.0/24", a.picked), nil
	}
	return "", fmt.Errorf("no space %q", space)
}

func (a *countingAllocator) Check(space, value string) error {
	if space == "clusterip" && !strings.HasPrefix(value, "10.43.") {
		return errors.New("the provided IP is not in the valid range")
	}
	if port, _ := strconv.Atoi(value); space == "nodeport" && (port < 30000 || port > 32767) {
		return errors.New("provided port is not in the valid range. The range of valid ports is 30000-32767")
	}
	return nil
}

// What is wrong is refused, all of it at once, with Kubernetes' own words.
func TestRefused(t *testing.T) {
	files, err := filepath.Glob("testdata/refused/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, obj := range decode(t, text) {
				k := LookupKind(obj.GetObjectKind().GroupVersionKind())
				if k.Default != nil {
					k.Default(obj)
				}
				errs := k.Validate(context.Background(), obj, nil)
				if len(errs) == 0 {
					t.Errorf("%s %s is let through", k.Kind, obj.(metav1.Object).GetName())
				}
				fmt.Fprintf(&got, "%s %s\n", k.Kind, obj.(metav1.Object).GetName())
				lines := make([]string, len(errs))
				for i, e := range errs {
					lines[i] = "  " + strings.ReplaceAll(e.Error(), "\n", "\n    ")
				}
				slices.Sort(lines)
				fmt.Fprintln(&got, strings.Join(lines, "\n"))
			}
			golden(t, strings.TrimSuffix(f, ".yaml")+".txt", got.String())
		})
	}
}
