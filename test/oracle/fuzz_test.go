package oracle

import (
	"fmt"
	"math/rand"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	apitesting "k8s.io/kubernetes/pkg/api/testing"

	"mgr/resource"
)

const fuzzed = 60 // objects of each kind

// generated objects come from Kubernetes' own fuzzers, always the same ones. Their names are made usable, so that they
// are not all refused for these alone.
func generated(t *testing.T, k *resource.Kind) []sample {
	t.Helper()
	fill := fuzzer.FuzzerFor(apitesting.FuzzerFuncs, rand.NewSource(37), legacyscheme.Codecs)
	fill.RandSource(rand.NewSource(37))
	gvk := schema.GroupVersionKind{Group: k.Group, Version: runtime.APIVersionInternal, Kind: k.Kind}
	if k.Group == "events.k8s.io" {
		gvk.Group = "events.k8s.io"
	}
	var all []sample
	for i := range fuzzed {
		obj, err := legacyscheme.Scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		fill.Fill(obj)
		served, err := legacyscheme.Scheme.ConvertToVersion(obj, k.GroupVersion())
		if err != nil {
			t.Fatal(err)
		}
		m := served.(metav1.Object)
		m.SetName(fmt.Sprintf("fuzzed-%d", i))
		m.SetGenerateName("")
		m.SetNamespace("")
		if k.Namespaced {
			m.SetNamespace("default")
		}
		m.SetLabels(nil)
		m.SetAnnotations(nil)
		m.SetOwnerReferences(nil)
		m.SetManagedFields(nil)
		m.SetFinalizers(nil)
		m.SetDeletionTimestamp(nil)
		m.SetDeletionGracePeriodSeconds(nil)
		doc, ok := plain(served).(map[string]any)
		if !ok {
			continue // a value that JSON has no form for
		}
		if s := decode(k, fmt.Sprintf("fuzzed#%d", i), doc); s != nil {
			all = append(all, *s)
		}
	}
	return all
}
