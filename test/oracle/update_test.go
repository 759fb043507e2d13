package oracle

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"mgr/resource"
)

// An update is refused for the same reasons, stores the same object and warns of the same.
func TestUpdate(t *testing.T) {
	eachKind(t, func(t *testing.T, k *resource.Kind, c counterpart) {
		updates(t, k, c, "")
	})
}

// So is an update through a subresource that has write rules of its own: status, approval, resize, …
func TestSubresources(t *testing.T) {
	eachKind(t, func(t *testing.T, k *resource.Kind, c counterpart) {
		served := map[string]bool{}
		for _, sub := range k.Subresources {
			if sub.Rules == nil {
				continue
			}
			served[sub.Name] = true
			t.Run(sub.Name, func(t *testing.T) {
				if c.sub[sub.Name] == nil {
					t.Fatalf("upstream_test.go names no counterpart of %s/%s", k.Resource, sub.Name)
				}
				updates(t, k, c, sub.Name)
			})
		}
		for sub := range c.sub {
			if !served[sub] {
				t.Logf("not served: %s/%s", k.Resource, sub)
			}
		}
	})
}

// updates every stored object of the corpus to each of its mutants.
func updates(t *testing.T, k *resource.Kind, c counterpart, sub string) {
	t.Helper()
	count := newTally()
	var olds []sample
	for _, s := range corpus(t, k) {
		if old := stored(t, k, s); old != nil {
			olds = append(olds, *old)
		}
	}
	for _, old := range olds {
		count.write(t, act{kind: k, sub: sub, obj: old.obj, old: old.obj}, c, old)
	}
	for _, to := range mutants(k, olds...) {
		count.write(t, act{kind: k, sub: sub, obj: to.obj, old: to.from.obj}, c, to)
	}
	if count.objects == 0 {
		t.Error("no object of testdata could be created, so none was updated")
	}
	count.report(t)
}

// stored is what a create makes of the sample, with the status that the sample has; nil when it is refused.
func stored(t *testing.T, k *resource.Kind, s sample) *sample {
	t.Helper()
	obj := s.obj.DeepCopyObject()
	var running []corev1.EphemeralContainer
	if p, ok := obj.(*corev1.Pod); ok {
		running, p.Spec.EphemeralContainers = p.Spec.EphemeralContainers, nil // not in a create
	}
	made := act{kind: k, obj: obj}.ours()
	doc, ok := made.object.(map[string]any)
	if !ok {
		return nil
	}
	if status, ok := s.doc["status"]; ok {
		doc["status"] = status
	}
	for _, key := range []string{"apiVersion", "kind"} {
		doc[key] = s.doc[key]
	}
	if p, ok := s.obj.(*corev1.Pod); ok && running != nil {
		doc["spec"].(map[string]any)["ephemeralContainers"] = child(plain(p), "spec")["ephemeralContainers"]
	}
	doc = apply(doc, []any{"metadata", "resourceVersion"}, "7").(map[string]any)
	old := decode(k, s.name, doc)
	if old == nil {
		t.Fatalf("%s cannot be decoded once stored", s.name)
	}
	return old
}
