package oracle

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"mgr/resource"
)

// What stands in testdata is valid: Kubernetes accepts it. Kinds that have no row yet are in it too.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	strict := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range bytes.Split(text, []byte("\n---\n")) {
			obj, gvk, err := strict.Decode(doc, nil, nil)
			if err != nil {
				t.Errorf("%s#%d: %v", file, i+1, err)
				continue
			}
			gvr, _ := meta.UnsafeGuessKindToResource(*gvk)
			c, ok := upstream(gvr.GroupResource())
			if !ok {
				t.Errorf("%s#%d: upstream_test.go names no counterpart of %s", file, i+1, gvr)
				continue
			}
			a := act{kind: &resource.Kind{GroupVersionResource: gvr, Kind: gvk.Kind}, obj: obj}
			if p, ok := obj.(*corev1.Pod); ok {
				p.Spec.EphemeralContainers = nil // only ever added to a pod that runs
			}
			if o := a.upstream(c); o.refused() {
				t.Errorf("%s#%d: Kubernetes refuses it: %v %s", file, i+1, o.causes, o.failure)
			}
		}
	}
}
