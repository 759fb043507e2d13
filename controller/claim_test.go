package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func TestClaim(t *testing.T) {
	owner := replicaSet("web", 1)
	owner.UID = "owner"
	deletedAt := &metav1.Time{Time: time.Now()}
	pod := func(name, app string, controller types.UID) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}}
		if controller != "" {
			p.OwnerReferences = []metav1.OwnerReference{{UID: controller, Controller: ptr.To(true)}}
		}
		return p
	}
	pods := []*corev1.Pod{
		pod("mine", "web", "owner"), pod("strayed", "other", "owner"), pod("orphan", "web", ""),
		pod("foreign", "web", "somebody"), pod("stranger", "other", ""), pod("dying orphan", "web", ""),
	}
	pods[5].DeletionTimestamp = deletedAt
	live := func(change func(*appsv1.ReplicaSet)) func(context.Context) (metav1.Object, error) {
		return func(context.Context) (metav1.Object, error) {
			o := owner.DeepCopy()
			change(o)
			return o, nil
		}
	}
	gone := apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "x")
	tests := []struct {
		name           string
		ownerIsDeleted bool
		live           func(context.Context) (metav1.Object, error)
		patchErr       error
		mine, patched  string
		wantErr        bool
	}{
		{"all is well", false, live(func(*appsv1.ReplicaSet) {}), nil, "[mine orphan]", "[strayed orphan]", false},
		{"the owner was replaced", false, live(func(s *appsv1.ReplicaSet) { s.UID = "new" }), nil, "[mine]", "[strayed]", true},
		{"the owner is deleted, the cache does not know", false, live(func(s *appsv1.ReplicaSet) { s.DeletionTimestamp = deletedAt }), nil, "[mine]", "[strayed]", true},
		{"the owner is deleted", true, nil, nil, "[mine]", "[]", false},
		{"the API fails", false, live(func(*appsv1.ReplicaSet) {}), errors.New("no"), "[mine]", "[strayed orphan]", true},
		{"the pods are gone", false, live(func(*appsv1.ReplicaSet) {}), gone, "[mine]", "[strayed orphan]", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := owner.DeepCopy()
			if tt.ownerIsDeleted {
				o.DeletionTimestamp = deletedAt
			}
			var mine, patched []string
			got, err := claim[*corev1.Pod]{
				owner: o, kind: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, selector: selectorOf(o), live: tt.live,
				patch: func(_ context.Context, p *corev1.Pod, body []byte) error {
					var patch struct{ Metadata struct{ UID types.UID } }
					if err := json.Unmarshal(body, &patch); err != nil || patch.Metadata.UID != p.UID {
						t.Errorf("patch %s of %s does not carry its uid", body, p.Name)
					}
					patched = append(patched, p.Name)
					return tt.patchErr
				},
			}.Run(context.Background(), pods)
			for _, p := range got {
				mine = append(mine, p.Name)
			}
			if fmt.Sprint(mine) != tt.mine || fmt.Sprint(patched) != tt.patched || (err != nil) != tt.wantErr {
				t.Errorf("mine %v, patched %v, error %v; want %s, %s, %v", mine, patched, err, tt.mine, tt.patched, tt.wantErr)
			}
		})
	}
}

// TestAStaleCacheMakesNoDuplicates wakes a controller again and again while the informers have not yet shown what it made.
func TestAStaleCacheMakesNoDuplicates(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	var made atomic.Int32
	counting := clientWith(c, func() error { made.Add(1); return nil })
	c.lead(func(cfg *Config) { cfg.Client = counting })
	c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("web", 40), metav1.CreateOptions{}))
	// Every change of the set wakes its controller in the middle of the creations, with a cache that is behind.
	for i := range 30 {
		c.must(c.Client.AppsV1().ReplicaSets("default").Patch(ctx, "web", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"n":"%d"}}}`, i), metav1.PatchOptions{}))
	}
	c.replicasReach("web", 40, false)
	c.quiet()
	if n := made.Load(); n != 40 {
		t.Errorf("%d pods were created for 40 replicas", n)
	}
	c.scale("web", 10, false)
	c.replicasReach("web", 10, false)
	c.quiet()
	if n := made.Load(); n != 40 {
		t.Errorf("%d pods were created in all, scaling down needs none", n)
	}
}
