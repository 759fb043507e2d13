package oracle

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"

	"mgr/resource"
)

var showTexts = flag.Bool("texts", false, "show messages that differ")

func TestMain(m *testing.M) {
	capabilities.Setup(true, 0) // kube-apiserver --allow-privileged, as everywhere
	klog.SetLogger(logr.Discard())
	m.Run()
}

// name of a row in test names: resource.group, with the version where it is not v1.
func name(k *resource.Kind) string {
	s := k.Resource
	if k.Version != "v1" {
		s += "." + k.Version
	}
	if k.Group != "" {
		s += "." + k.Group
	}
	return s
}

// eachKind runs a test for every row that has objects.
func eachKind(t *testing.T, f func(t *testing.T, k *resource.Kind, c counterpart)) {
	for _, k := range resource.All() {
		t.Run(name(k), func(t *testing.T) {
			c, ok := upstream(k.GroupResource())
			if !ok {
				t.Fatalf("upstream_test.go names no counterpart of %s", k.GroupVersionResource)
			}
			f(t, k, c)
		})
	}
}

// Defaults are those of Kubernetes' scheme.
func TestDefaults(t *testing.T) {
	eachKind(t, func(t *testing.T, k *resource.Kind, _ counterpart) {
		count := newTally()
		for _, s := range inputs(t, k) {
			count.objects++
			a, b := s.obj.DeepCopyObject(), s.obj.DeepCopyObject()
			if k.Default != nil {
				k.Default(a)
			}
			legacyscheme.Scheme.Default(b)
			if !count.values(k, s, "default", plain(a), plain(b)) {
				count.accepted++
			}
		}
		count.report(t)
	})
}

// values compares two objects and says whether they differ.
func (c *tally) values(k *resource.Kind, s sample, act string, ours, upstream any) bool {
	paths := slices.Compact(slices.Sorted(slices.Values(unequal("", ours, upstream))))
	for _, path := range paths {
		c.note(name(k), s, difference{act + " " + path, "both", fmt.Sprintf("ours %s, upstream %s", brief(ours, path), brief(upstream, path))})
	}
	return len(paths) > 0
}

// A create is refused for the same reasons, stores the same object and warns of the same.
func TestCreate(t *testing.T) {
	eachKind(t, func(t *testing.T, k *resource.Kind, c counterpart) {
		count := newTally()
		for _, s := range inputs(t, k) {
			count.write(t, act{kind: k, obj: s.obj}, c, s)
		}
		count.report(t)
	})
}

// inputs are all objects that are tried as they are.
func inputs(t *testing.T, k *resource.Kind) []sample {
	t.Helper()
	all := corpus(t, k)
	if len(all) == 0 {
		t.Errorf("testdata has no %s: write one that uses every field", k.Kind)
	}
	return slices.Concat(all, mutants(k, all...), golden(t, k), generated(t, k))
}

// write compares one act on both sides.
func (c *tally) write(t *testing.T, a act, theirs counterpart, s sample) {
	t.Helper()
	c.objects++
	verb := "create"
	if a.old != nil {
		verb = strings.TrimSpace("update " + a.sub)
	}
	o, u := a.ours(), a.upstream(theirs)
	kind := name(a.kind)
	if u.panicked {
		c.panics++
		return
	}
	if o.failure != u.failure {
		c.note(kind, s, difference{verb + " fails", "both", fmt.Sprintf("ours %q, upstream %q", o.failure, u.failure)})
		return
	}
	c.causes(t, kind, verb, s, o.causes, u.causes)
	switch {
	case o.refused() && u.refused():
		c.refused++
		return
	case o.refused() || u.refused():
		return
	}
	c.accepted++
	now(o.object, a.obj, a.old)
	now(u.object, a.obj, a.old)
	if a.kind.Resource == "services" {
		assigned(o.object, a.obj, a.old)
		assigned(u.object, a.obj, a.old)
	}
	momentary(o.object, a.obj, a.old)
	momentary(u.object, a.obj, a.old)
	c.values(a.kind, s, verb, o.object, u.object)
	for _, w := range minus(o.warnings, u.warnings) {
		c.note(kind, s, difference{verb + " warning", "ours", w})
	}
	for _, w := range minus(u.warnings, o.warnings) {
		c.note(kind, s, difference{verb + " warning", "upstream", w})
	}
}

func (c *tally) causes(t *testing.T, kind, verb string, s sample, ours, upstream []metav1.StatusCause) {
	t.Helper()
	where := func(list []metav1.StatusCause) []string {
		var all []string
		for _, cause := range list {
			all = append(all, cause.Field+" "+string(cause.Type))
		}
		return set(all)
	}
	text := func(at string, list []metav1.StatusCause) string {
		for _, cause := range list {
			if cause.Field+" "+string(cause.Type) == at {
				return cause.Field + ": " + cause.Message
			}
		}
		return ""
	}
	a, b := where(ours), where(upstream)
	for _, at := range minus(a, b) {
		c.note(kind, s, difference{verb + " " + unnumbered(at), "ours", text(at, ours)})
	}
	for _, at := range minus(b, a) {
		c.note(kind, s, difference{verb + " " + unnumbered(at), "upstream", text(at, upstream)})
	}
	if slices.Equal(a, b) {
		texts := func(list []metav1.StatusCause) []string {
			var all []string
			for _, cause := range list {
				all = append(all, cause.Field+": "+cause.Message)
			}
			return set(all)
		}
		mine, theirs := texts(ours), texts(upstream)
		only := minus(mine, theirs)
		c.texts += len(only)
		if *showTexts && len(only) > 0 {
			t.Logf("text: %s\n  ours     %s\n  upstream %s", s.name, strings.Join(only, "\n           "), strings.Join(minus(theirs, mine), "\n           "))
		}
	}
}

// set is sorted and without duplicates: Kubernetes checks metadata twice on some paths and once on others.
func set(of []string) []string { return slices.Compact(slices.Sorted(slices.Values(of))) }

// minus is the multiset a without b.
func minus(a, b []string) []string {
	n := map[string]int{}
	for _, x := range b {
		n[x]++
	}
	var rest []string
	for _, x := range a {
		if n[x] == 0 {
			rest = append(rest, x)
		} else {
			n[x]--
		}
	}
	return rest
}

// brief is the value at an unnumbered path, of the first elements.
func brief(v any, path string) string {
	for _, step := range strings.Split(path, ".") {
		key, _, _ := strings.Cut(step, "[")
		m, ok := v.(map[string]any)
		if !ok {
			break
		}
		v = m[key]
		for range strings.Count(step, "[]") {
			if l, ok := v.([]any); ok && len(l) > 0 {
				v = l[0]
			}
		}
	}
	s := fmt.Sprint(v)
	return s[:min(len(s), 120)]
}
