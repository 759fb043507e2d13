package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"mgr/fsm"
	"mgr/resource"
)

// put stores an object of a kind as it is, past all rules: what these controllers do must not depend on what is in it.
func (c *cluster) put(k *resource.Kind, namespace, name string, owners ...metav1.OwnerReference) {
	c.t.Helper()
	obj := k.New()
	m, err := meta.Accessor(obj)
	c.must(m, err)
	m.SetNamespace(namespace)
	m.SetName(name)
	m.SetUID(types.UID("uid-of-" + k.Resource + "-" + name))
	m.SetOwnerReferences(owners)
	m.SetResourceVersion("0")
	obj.GetObjectKind().SetGroupVersionKind(k.GVK())
	data, err := json.Marshal(obj)
	c.must(data, err)
	const version = `"resourceVersion":"`
	before, after, _ := strings.Cut(string(data), version+`0"`)
	op := fsm.Op{Verb: fsm.Create, Key: fsm.Key{Resource: k.Storage(), Namespace: namespace, Name: name}, UID: string(m.GetUID()),
		Data: []byte(before + version + `"` + after), RevisionAt: uint32(len(before) + len(version))}
	res, err := c.Quorum.Propose(context.Background(), fsm.Command{Ops: []fsm.Op{op}})
	if c.must(res, err); res.Refusal != nil {
		c.t.Fatal(res.Refusal)
	}
}

// only runs nothing but some controllers until the test ends.
func (c *cluster) only(make func(Config) (Controller, error), recorder record.EventRecorder) {
	c.t.Helper()
	cfg := Config{Client: c.Client, Metadata: c.meta, Informers: c.informers, Resources: resource.All(), Recorder: recorder,
		Snapshot: func() Snapshot { return c.Snapshot() }}.withDefaults()
	controller, err := make(cfg)
	c.must(controller, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := newWaiter(func() error { return runLoops(ctx, []Controller{controller}, nil, nil, slog.New(slog.DiscardHandler)) })
	c.t.Cleanup(func() {
		cancel()
		c.must(nil, done())
	})
}

// newWaiter runs f and returns what waits for it.
func newWaiter(f func() error) func() error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return func() error { return <-done }
}

func collector(c Config) (Controller, error) {
	return newGarbageCollector(c.Resources, c.Informer, c.Metadata, c.Snapshot, c.Recorder)
}

// stored are the kinds with objects of their own in the log.
func stored(namespaced bool) []*resource.Kind {
	var out []*resource.Kind
	for _, k := range resource.All() {
		if k.Stored == nil && k.Namespaced == namespaced {
			out = append(out, k)
		}
	}
	return out
}

// leftIn are the objects of a namespace, of every kind.
func (c *cluster) leftIn(namespace string) []string {
	var out []string
	state := c.Quorum.FSM().State()
	for _, name := range state.Resources() {
		for o := range state.Resource(name).List("", "") {
			if o.Key.Namespace == namespace {
				out = append(out, o.Key.String())
			}
		}
	}
	return out
}

func TestNamespaceIsEmptiedOfEveryKind(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	c.must(c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}, metav1.CreateOptions{}))
	for _, k := range stored(true) {
		c.put(k, "doomed", "x")
		c.put(k, "default", "x")
	}
	others := len(c.leftIn("default"))
	c.only(func(cfg Config) (Controller, error) {
		return newNamespaces(cfg.Informers, cfg.Client, cfg.Metadata, cfg.Resources), nil
	}, c.events)
	c.must(nil, c.Client.CoreV1().Namespaces().Delete(ctx, "doomed", metav1.DeleteOptions{}))
	c.eventually("the namespace is gone", func() error {
		if _, err := c.Client.CoreV1().Namespaces().Get(ctx, "doomed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v; left are %v", err, c.leftIn("doomed"))
		}
		return nil
	})
	if left := c.leftIn("doomed"); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if n := len(c.leftIn("default")); n != others {
		t.Errorf("another namespace has %d objects, had %d", n, others)
	}
}

func TestEveryKindIsCollected(t *testing.T) {
	c := newCluster(t)
	gone := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "gone"}
	objects := func() (n int) {
		for _, k := range collected(resource.All()) {
			for o := range c.Quorum.FSM().State().Resource(k.Storage()).List("", "") {
				if o.Key.Name == "owned" {
					n++
				}
			}
		}
		return n
	}
	for _, k := range collected(resource.All()) {
		namespace := ""
		if k.Namespaced {
			namespace = "default"
		}
		c.put(k, namespace, "owned", gone)
		c.put(k, namespace, "free")
	}
	made := objects()
	c.only(collector, c.events)
	c.eventually("all that was owned is gone", func() error {
		if left := objects(); left > 0 || made < 40 {
			return fmt.Errorf("%d of %d are left", left, made)
		}
		return nil
	})
	for _, k := range collected(resource.All()) {
		key := fsm.Key{Resource: k.Storage(), Name: "free"}
		if k.Namespaced {
			key.Namespace = "default"
		}
		if c.Quorum.FSM().State().Get(key) == nil {
			t.Errorf("%s was collected without an owner", key)
		}
	}
}

func TestOwnersAreOfTheSameNamespaceOrOfNone(t *testing.T) {
	c := newCluster(t)
	events := record.NewFakeRecorder(10)
	ctx := context.Background()
	node := c.node("n1")
	elsewhere, err := c.Client.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	c.must(elsewhere, err)
	owned := func(name string, ref metav1.OwnerReference) {
		c.must(c.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{ref}}}, metav1.CreateOptions{}))
	}
	owned("of-a-node", metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: node})
	owned("of-elsewhere", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: elsewhere.UID})
	c.eventually("the informers show both namespaces", func() error {
		if n := len(c.informers.Core().V1().Namespaces().Informer().GetStore().ListKeys()); n < len(testNamespaces) {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	c.only(collector, events)
	c.eventually("only what a node owns is left", func() error {
		if got := c.left(); got != "of-a-node<n1" {
			return fmt.Errorf("%q is left", got)
		}
		return nil
	})
	want := fmt.Sprintf(`Warning OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: default, name: owner, uid: %s] does not exist in namespace "default"`, elsewhere.UID)
	c.eventually("it is told why the other one went", func() error {
		select {
		case got := <-events.Events:
			if got != want {
				t.Errorf("told %s\nwant %s", got, want)
			}
			return nil
		default:
			return errors.New("nothing was told")
		}
	})
	c.must(nil, c.Client.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}))
	c.eventually("that goes with the node", func() error {
		if got := c.left(); got != "" {
			return fmt.Errorf("%q is left", got)
		}
		return nil
	})
}

func (c *cluster) node(name string) types.UID {
	c.t.Helper()
	n, err := c.Client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	c.must(n, err)
	return n.UID
}
