package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// graph makes config maps that own each other; edges are "child<parent", with "!" at the end when the child blocks its
// parent's deletion.
func (c *cluster) graph(names string, edges ...string) map[string]*corev1.ConfigMap {
	c.t.Helper()
	ctx, maps := context.Background(), c.Client.CoreV1().ConfigMaps("default")
	made := map[string]*corev1.ConfigMap{}
	for _, name := range strings.Fields(names) {
		m, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		c.must(m, err)
		made[name] = m
	}
	for _, e := range edges {
		blocks := strings.HasSuffix(e, "!")
		child, parent, _ := strings.Cut(strings.TrimSuffix(e, "!"), "<")
		m, p := made[child], made[parent]
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "ConfigMap", Name: parent, UID: p.UID, BlockOwnerDeletion: ptr.To(blocks)})
		m, err := maps.Update(ctx, m, metav1.UpdateOptions{})
		c.must(m, err)
		made[child] = m
	}
	return made
}

func (c *cluster) left() string {
	c.t.Helper()
	list, err := c.Client.CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	c.must(list, err)
	var names []string
	for _, m := range list.Items {
		if m.Name == rootCAConfigMap {
			continue
		}
		name := m.Name
		for _, o := range m.OwnerReferences {
			name += "<" + o.Name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestGarbageCollection(t *testing.T) {
	tests := []struct {
		name   string
		nodes  string
		edges  []string
		delete string
		policy metav1.DeletionPropagation
		want   string
	}{
		{"background", "a b c other", []string{"b<a", "c<b"}, "a", metav1.DeletePropagationBackground, "other"},
		{"foreground, blocking", "a b c other", []string{"b<a!", "c<b!"}, "a", metav1.DeletePropagationForeground, "other"},
		{"foreground, not blocking", "a b c", []string{"b<a", "c<b"}, "a", metav1.DeletePropagationForeground, ""},
		{"orphan", "a b c", []string{"b<a", "c<b"}, "a", metav1.DeletePropagationOrphan, "b c<b"},
		{"orphan of many", "a b c d", []string{"b<a", "c<a!", "d<a"}, "a", metav1.DeletePropagationOrphan, "b c d"},
		{"two owners, one goes", "a b c", []string{"c<a", "c<b"}, "a", metav1.DeletePropagationBackground, "b c<b"},
		{"two owners, one waits", "a b c", []string{"c<a!", "c<b!"}, "a", metav1.DeletePropagationForeground, "b c<b"},
		{"cycle, background", "a b", []string{"a<b!", "b<a!"}, "a", metav1.DeletePropagationBackground, ""},
		{"cycle, foreground", "a b", []string{"a<b!", "b<a!"}, "a", metav1.DeletePropagationForeground, ""},
		{"cycle of three, foreground", "a b c d", []string{"a<c!", "b<a!", "c<b!", "d<c!"}, "a", metav1.DeletePropagationForeground, ""},
		{"diamond, foreground", "a b c d", []string{"b<a!", "c<a!", "d<b!", "d<c!"}, "a", metav1.DeletePropagationForeground, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			resign := c.lead()
			c.graph(tt.nodes, tt.edges...)
			policy := tt.policy
			c.must(nil, c.Client.CoreV1().ConfigMaps("default").Delete(context.Background(), tt.delete, metav1.DeleteOptions{PropagationPolicy: &policy}))
			resign() // in the middle of it
			c.lead()
			c.eventually("what is left", func() error {
				if got := c.left(); got != tt.want {
					return fmt.Errorf("%q, want %q", got, tt.want)
				}
				return nil
			})
			c.quiet()
			if got := c.left(); got != tt.want {
				t.Errorf("later %q is left, want %q", got, tt.want)
			}
		})
	}
}

func TestForegroundWaitsForItsDependents(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx, maps := context.Background(), c.Client.CoreV1().ConfigMaps("default")
	made := c.graph("a b", "b<a!")
	made["b"].Finalizers = []string{"example.com/hold"}
	c.must(maps.Update(ctx, made["b"], metav1.UpdateOptions{}))
	policy := metav1.DeletePropagationForeground
	c.must(nil, maps.Delete(ctx, "a", metav1.DeleteOptions{PropagationPolicy: &policy}))
	c.eventually("b is asked to go", func() error {
		b, err := maps.Get(ctx, "b", metav1.GetOptions{})
		if err != nil || b.DeletionTimestamp == nil {
			return fmt.Errorf("%v %w", b.DeletionTimestamp, err)
		}
		return nil
	})
	c.quiet()
	if _, err := maps.Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Fatalf("the owner went before its dependent: %v", err)
	}
	c.must(maps.Patch(ctx, "b", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	c.eventually("both are gone", func() error {
		if got := c.left(); got != "" {
			return fmt.Errorf("%q is left", got)
		}
		return nil
	})
}

// The caches of two kinds are not equally far; one that never hears of a dependent is the worst case.
func TestDependentsThatTheCacheLacks(t *testing.T) {
	for policy, want := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationOrphan:     "b",
		metav1.DeletePropagationForeground: "a b<a", // a waits for b
	} {
		c := newCluster(t)
		ctx, maps := t.Context(), c.Client.CoreV1().ConfigMaps("default")
		lw := cache.NewFilteredListWatchFromClient(c.Client.CoreV1().RESTClient(), "configmaps", "default",
			func(o *metav1.ListOptions) { o.LabelSelector = "!unheard" })
		deaf := cache.NewSharedIndexInformer(lw, &corev1.ConfigMap{}, 0, cache.Indexers{byOwner: indexByOwner})
		var ended sync.WaitGroup
		ended.Go(func() { deaf.RunWithContext(ctx) })
		t.Cleanup(ended.Wait)
		made := c.graph("a b", "b<a!")
		made["b"].Labels = map[string]string{"unheard": ""}
		c.must(maps.Update(ctx, made["b"], metav1.UpdateOptions{}))
		c.eventually("the cache has a alone", func() error {
			if keys := deaf.GetStore().ListKeys(); !slices.Equal(keys, []string{"default/a"}) {
				return fmt.Errorf("it has %v", keys)
			}
			return nil
		})
		c.lead(func(cfg *Config) {
			cfg.Informer = func(gvr schema.GroupVersionResource) (cache.SharedIndexInformer, error) {
				if gvr.Resource == "configmaps" {
					return deaf, nil
				}
				g, err := cfg.Informers.ForResource(gvr)
				if err != nil {
					return nil, err
				}
				return g.Informer(), nil
			}
		})
		c.must(nil, maps.Delete(ctx, "a", metav1.DeleteOptions{PropagationPolicy: &policy}))
		c.eventually(string(policy), func() error {
			if got := c.left(); got != want {
				return fmt.Errorf("%q is left, want %q", got, want)
			}
			return nil
		})
		c.quiet()
		if got := c.left(); got != want {
			t.Errorf("%s: later %q is left, want %q", policy, got, want)
		}
	}
}

func TestOwnersThatNeverWere(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx := context.Background()
	owned := func(name string, refs ...metav1.OwnerReference) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: refs}}
	}
	live := c.graph("owner")["owner"]
	for _, m := range []*corev1.ConfigMap{
		owned("wrong-uid", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "other"}),
		owned("no-such-name", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "none", UID: live.UID}),
		owned("no-such-kind", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "x"}),
		owned("node-owned", metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "n"}),
		owned("fine", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: live.UID}),
	} {
		c.must(c.Client.CoreV1().ConfigMaps("default").Create(ctx, m, metav1.CreateOptions{}))
	}
	// A cluster-scoped object cannot be owned by one in a namespace: nobody can say which, so nothing is destroyed.
	c.must(c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "misowned",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "gone"}}}}, metav1.CreateOptions{}))
	c.eventually("only what can be known is collected", func() error {
		if got, want := c.left(), "fine<owner no-such-kind<x owner"; got != want {
			return fmt.Errorf("%q is left, want %q", got, want)
		}
		return nil
	})
	c.quiet()
	if ns, err := c.Client.CoreV1().Namespaces().Get(ctx, "misowned", metav1.GetOptions{}); err != nil || ns.DeletionTimestamp != nil {
		t.Errorf("the namespace with an owner in a namespace was deleted: %v", err)
	}
}

func TestDeletingADeploymentTakesAllBelow(t *testing.T) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		t.Run(string(policy), func(t *testing.T) {
			c := newCluster(t)
			c.lead()
			ctx, ds := context.Background(), c.Client.AppsV1().Deployments("default")
			c.must(ds.Create(ctx, deployment("web", 3, "RollingUpdate"), metav1.CreateOptions{}))
			c.rolledOut("web", 3, "demo:1")
			c.must(nil, ds.Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: &policy}))
			c.eventually("all is gone", func() error {
				if _, err := ds.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) || len(c.sets("web"))+len(c.pods("web")) > 0 {
					return fmt.Errorf("%v, %d sets, %d pods", err, len(c.sets("web")), len(c.pods("web")))
				}
				return nil
			})
		})
	}
}
