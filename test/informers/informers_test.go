// Package informers_test runs client-go's informers against the server, over HTTP and in process.
package informers_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"mgr/api/apitest"
)

const (
	writers = 4
	each    = 100
)

// churn creates, changes and deletes; what is left afterwards is known.
func churn(t *testing.T, c kubernetes.Interface) {
	ctx := t.Context()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			cms := c.CoreV1().ConfigMaps("default")
			for i := range each {
				cm, err := cms.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("w%d-%d", w, i)}}, metav1.CreateOptions{})
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				cm.Data = map[string]string{"n": fmt.Sprint(i)}
				if cm, err = cms.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
					t.Errorf("update: %v", err)
				}
				if i%2 == 0 {
					if err := cms.Delete(ctx, cm.Name, metav1.DeleteOptions{}); err != nil {
						t.Errorf("delete: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// follow checks that an informer ends with exactly what the server has.
func follow(t *testing.T, s *apitest.Server, inf cache.SharedIndexInformer) {
	t.Helper()
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { poke() }, UpdateFunc: func(_, _ any) { poke() }, DeleteFunc: func(any) { poke() },
	}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() { inf.Run(stop) })
	defer ended.Wait()
	defer close(stop)
	churn(t, s.Client)
	list, err := s.Client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != writers*each/2 {
		t.Fatalf("list: %v, %d items", err, len(list.Items))
	}
	same := func() bool {
		if len(inf.GetStore().ListKeys()) != len(list.Items) {
			return false
		}
		for i := range list.Items {
			o, ok, _ := inf.GetStore().GetByKey("default/" + list.Items[i].Name)
			if !ok || o.(*corev1.ConfigMap).ResourceVersion != list.Items[i].ResourceVersion {
				return false
			}
		}
		return true
	}
	late := time.After(30 * time.Second)
	for !same() {
		select {
		case <-changed:
		case <-late:
			t.Fatalf("the informer has %d objects, the server %d", len(inf.GetStore().ListKeys()), len(list.Items))
		}
	}
}

func TestInformerOverTheAPI(t *testing.T) {
	s := apitest.New(t)
	follow(t, s, informers.NewSharedInformerFactory(s.Client, 0).Core().V1().ConfigMaps().Informer())
}

func TestInformerInProcess(t *testing.T) {
	s := apitest.New(t)
	feed := s.ListWatch(corev1.SchemeGroupVersion.WithResource("configmaps"))
	follow(t, s, cache.NewSharedIndexInformer(feed, &corev1.ConfigMap{}, 0, cache.Indexers{}))
}

// TestInProcessObjectsAreShared: two informers hold the same object, decoded once.
func TestInProcessObjectsAreShared(t *testing.T) {
	s := apitest.New(t)
	if _, err := s.Client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	var got []any
	for range 2 {
		inf := cache.NewSharedIndexInformer(s.ListWatch(corev1.SchemeGroupVersion.WithResource("configmaps")), &corev1.ConfigMap{}, 0, cache.Indexers{})
		go inf.Run(stop)
		if !cache.WaitForCacheSync(stop, inf.HasSynced) {
			t.Fatal("not synced")
		}
		o, _, _ := inf.GetStore().GetByKey("default/a")
		got = append(got, o)
	}
	if got[0] == nil || got[0] != got[1] {
		t.Errorf("two copies: %p, %p", got[0], got[1])
	}
}
