package api_test

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"

	"mgr/api/apitest"
)

// next returns the next event of w that is no bookmark.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("the watch ended")
			}
			if e.Type == watch.Bookmark {
				continue
			}
			return e
		case <-time.After(10 * time.Second):
			t.Fatal("no event within 10 s")
		}
	}
}

func TestWatchSelectsAndSynthesises(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	cms := s.Client.CoreV1().ConfigMaps("default")
	w, err := cms.Watch(ctx, metav1.ListOptions{LabelSelector: "on=yes"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	cm, err := cms.Create(ctx, configMap("a", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	step := func(label string, want watch.EventType) {
		t.Helper()
		cm.Labels = map[string]string{"on": label}
		if cm, err = cms.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		e := next(t, w)
		got, ok := e.Object.(*corev1.ConfigMap)
		if !ok || e.Type != want || got.ResourceVersion != cm.ResourceVersion {
			t.Fatalf("after label %q: %s %+v, want %s at %s", label, e.Type, e.Object, want, cm.ResourceVersion)
		}
		if want == watch.Deleted && got.Labels["on"] != "yes" {
			t.Errorf("the watcher lost a form it never saw: %v", got.Labels)
		}
	}
	step("yes", watch.Added)
	step("no", watch.Deleted)
	step("yes", watch.Added)
	if err := cms.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := next(t, w); e.Type != watch.Deleted || e.Object.(*corev1.ConfigMap).ResourceVersion <= cm.ResourceVersion {
		t.Errorf("delete: %s %+v", e.Type, e.Object)
	}
}

// TestWatchContract writes from many sides while watchers start at many revisions: each sees every change after its
// revision once, in order.
func TestWatchContract(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	const writers, each = 8, 50
	// At revision 0 there would be nothing to watch from: "0" asks for the state, which comes in the order of names.
	if _, err := s.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap("first", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			cms := s.Client.CoreV1().ConfigMaps("default")
			for n := range each {
				if _, err := cms.Create(ctx, configMap(fmt.Sprintf("w%d-%d", i, n), nil), metav1.CreateOptions{}); err != nil {
					t.Errorf("create: %v", err)
				}
			}
		})
	}
	for start := range 5 {
		wg.Go(func() {
			cms := s.Client.CoreV1().ConfigMaps("default")
			list, err := cms.List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Errorf("list: %v", err)
				return
			}
			seen := len(list.Items)
			w, err := cms.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
			if err != nil {
				t.Errorf("watch: %v", err)
				return
			}
			defer w.Stop()
			last, _ := strconv.ParseUint(list.ResourceVersion, 10, 64)
			for seen < 1+writers*each {
				e := next(t, w)
				rv, _ := strconv.ParseUint(e.Object.(*corev1.ConfigMap).ResourceVersion, 10, 64)
				if rv <= last {
					t.Errorf("watcher %d: revision %d after %d", start, rv, last)
				}
				last = rv
				seen++
			}
		})
	}
	wg.Wait()
}

func TestInformerOverHTTPPath(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	if _, err := s.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap("before", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f := informers.NewSharedInformerFactory(s.Client, 0)
	inf := f.Core().V1().ConfigMaps()
	inf.Informer()
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	if _, err := inf.Lister().ConfigMaps("default").Get("before"); err != nil {
		t.Errorf("initial state: %v", err)
	}
	if _, err := s.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap("after", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for {
		if _, err := inf.Lister().ConfigMaps("default").Get("after"); err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the informer did not see the new object")
		case <-time.After(5 * time.Millisecond):
		}
	}
}
