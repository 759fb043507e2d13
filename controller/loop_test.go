package controller

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// source is an informer over nothing but what the test sends.
type source struct {
	cache.SharedIndexInformer
	events *watch.FakeWatcher
}

func newSource(t *testing.T) source {
	t.Helper()
	w := watch.NewFakeWithChanSize(100, false)
	s := source{events: w, SharedIndexInformer: cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListFunc: func(metav1.ListOptions) (runtime.Object, error) {
			return &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		},
		WatchFunc: func(metav1.ListOptions) (watch.Interface, error) { return w, nil },
	}, noWatchList{}), &corev1.ConfigMap{}, 0, nil)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.RunWithContext(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

func (s source) add(name, rv string) {
	s.events.Add(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: rv}})
}

// counts are Metrics that remember.
type counts struct {
	mu                     sync.Mutex
	ok, failures, panicked int
}

func (c *counts) Reconciled(_ string, _ time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.ok++
	} else {
		c.failures++
	}
}

func (c *counts) Panicked(string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.panicked++
}

func TestOneWriterForEachOutput(t *testing.T) {
	status := Output{Resource: "pods", Field: "status"}
	tests := []struct {
		name string
		a, b Output
		want string
	}{
		{"same field", status, status, `"a" and "b" both write pods/status`},
		{"other field", status, Output{Resource: "pods"}, ""},
		{"other resource", status, Output{Resource: "nodes", Field: "status"}, ""},
		{"other scope", Output{Resource: "pods", Scope: "x"}, Output{Resource: "pods", Scope: "y"}, ""},
		{"all and some", Output{Resource: "pods"}, Output{Resource: "pods", Scope: "y"}, "both write pods y"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := runLoops(canceled(), []Controller{{Name: "b", Outputs: []Output{tt.b}}, {Name: "a", Outputs: []Output{tt.a}}}, nil, nil, slog.New(slog.DiscardHandler))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(tt.want, " y"))) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
	if err := runLoops(canceled(), []Controller{{Name: "a"}, {Name: "a"}}, nil, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("two controllers of one name were accepted")
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestLoopRetriesPanicsErrorsAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m := newSource(t), &counts{}
		seen := map[string][]time.Duration{}
		var mu sync.Mutex
		began := time.Now()
		var heard atomic.Int32
		keys := func(old, new any) []string {
			heard.Add(1)
			return objectKey(old, new)
		}
		c := Controller{Name: "c", Workers: 2, Start: []string{"start"}, Inputs: []Input{{Informer: s, Keys: keys}},
			Reconcile: func(_ context.Context, key string) error {
				mu.Lock()
				defer mu.Unlock()
				seen[key] = append(seen[key], time.Since(began))
				switch n := len(seen[key]); {
				case key == "panics" && n < 3:
					panic("no")
				case key == "fails" && n < 4:
					return errors.New("not yet")
				case key == "again" && n < 3:
					return Again(time.Minute)
				}
				return nil
			}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- runLoops(ctx, []Controller{c}, nil, m, slog.New(slog.DiscardHandler)) }()
		synctest.Wait()
		for i, name := range []string{"panics", "fails", "again", "fine"} {
			s.add(name, string(rune('2'+i)))
		}
		timer := time.NewTimer(time.Hour)
		<-timer.C
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]int{"panics": 3, "fails": 4, "again": 3, "fine": 1, "start": 1} {
			if got := len(seen[key]); got != want {
				t.Errorf("%s was reconciled %d times, want %d", key, got, want)
			}
		}
		if d := seen["again"][2] - seen["again"][1]; d != time.Minute {
			t.Errorf("Again(1m) came after %v", d)
		}
		if m.panicked != 2 || m.failures != 5 || m.ok != 7 {
			t.Errorf("metrics heard of %d panics, %d failures, %d successes; want 2, 5, 7", m.panicked, m.failures, m.ok)
		}
		// Handlers are gone: nothing more is reconciled, and a new run starts from what is there.
		before := heard.Load()
		s.add("late", "9")
		synctest.Wait()
		if len(seen["late"]) > 0 || heard.Load() != before {
			t.Error("a handler or a reconcile ran after the end of the leadership")
		}
		ctx, cancel = context.WithCancel(t.Context())
		go func() { done <- runLoops(ctx, []Controller{c}, nil, m, slog.New(slog.DiscardHandler)) }()
		synctest.Wait()
		if len(seen["late"]) != 1 || len(seen["fine"]) != 2 {
			t.Errorf("the next leadership saw late %d and fine %d times, want 1 and 2", len(seen["late"]), len(seen["fine"]))
		}
		cancel()
		<-done
	})
}

func TestOwnWritesWaitForTheCache(t *testing.T) {
	store := cache.NewStore(cache.DeletionHandlingMetaNamespaceKeyFunc)
	w := newOwnWrites()
	pod := func(name, uid, rv string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(uid), ResourceVersion: rv}}
	}
	check := func(what string, want bool) {
		t.Helper()
		if got := w.Seen("k", store); got != want {
			t.Errorf("%s: seen is %v, want %v", what, got, want)
		}
	}
	check("nothing was done", true)
	w.Created("k", pod("a", "1", "10"))
	w.Created("k", pod("b", "2", "9"))
	check("an empty cache", false)
	_ = store.Add(pod("b", "2", "9"))
	check("an older revision", false)
	_ = store.Add(pod("other", "3", "11"))
	check("a newer revision: a was created and may be gone again", true)
	w.Deleted("k", pod("b", "2", "9"))
	check("the deleted pod is still there", false)
	terminating := pod("b", "2", "12")
	terminating.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	_ = store.Update(terminating)
	check("it is terminating", true)
	w.Deleted("k", pod("b", "2", "12"))
	_ = store.Update(pod("b", "4", "13"))
	check("another pod of that name", true)
	w.Created("k", pod("z", "5", "99"))
	w.Forget("k")
	check("forgotten", true)
}
