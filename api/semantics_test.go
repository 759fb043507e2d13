package api_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/api/apitest"
)

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}

func TestObjectLife(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	cms := s.Client.CoreV1().ConfigMaps("default")
	made, err := cms.Create(ctx, configMap("a", map[string]string{"k": "v"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if made.UID == "" || made.CreationTimestamp.IsZero() || made.ResourceVersion == "" || len(made.ManagedFields) != 1 {
		t.Errorf("create left out metadata: %+v", made.ObjectMeta)
	}
	got, err := cms.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.ResourceVersion != made.ResourceVersion || got.Data["k"] != "v" {
		t.Errorf("get: %v, %+v", err, got)
	}
	if _, err := cms.Create(ctx, configMap("a", nil), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) || err.Error() != `configmaps "a" already exists` {
		t.Errorf("create again: %v", err)
	}
	got.Data["k"] = "w"
	put, err := cms.Update(ctx, got, metav1.UpdateOptions{})
	if err != nil || put.Data["k"] != "w" {
		t.Fatalf("update: %v", err)
	}
	got.Data["k"] = "x"
	const lost = `Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`
	if _, err := cms.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) || err.Error() != lost {
		t.Errorf("update of an old version: %v", err)
	}
	list, err := cms.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Data["k"] != "w" {
		t.Errorf("list: %v, %+v", err, list)
	}
	if err := cms.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := cms.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) || err.Error() != `configmaps "a" not found` {
		t.Errorf("get after delete: %v", err)
	}
}

func TestPatchTypes(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	cms := s.Client.CoreV1().ConfigMaps("default")
	if _, err := cms.Create(ctx, configMap("a", map[string]string{"k": "v", "l": "m"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	force := true
	for _, c := range []struct {
		typ   types.PatchType
		patch string
		opts  metav1.PatchOptions
		want  string
	}{
		{types.JSONPatchType, `[{"op":"replace","path":"/data/k","value":"json"}]`, metav1.PatchOptions{}, "json"},
		{types.MergePatchType, `{"data":{"k":"merge"}}`, metav1.PatchOptions{}, "merge"},
		{types.StrategicMergePatchType, `{"data":{"k":"strategic"}}`, metav1.PatchOptions{}, "strategic"},
		{types.ApplyPatchType, `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"apply"}}`, metav1.PatchOptions{FieldManager: "me", Force: &force}, "apply"},
	} {
		got, err := cms.Patch(ctx, "a", c.typ, []byte(c.patch), c.opts)
		if err != nil || got.Data["k"] != c.want || got.Data["l"] != "m" {
			t.Errorf("%s: %v, %v", c.typ, err, got.Data)
		}
	}
	_, err := cms.Patch(ctx, "a", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"other"}}`), metav1.PatchOptions{FieldManager: "you"})
	if !apierrors.IsConflict(err) || err.Error() != `Apply failed with 1 conflict: conflict with "me": .data.k` {
		t.Errorf("apply of another's field: %v", err)
	}
	made, err := cms.Patch(ctx, "new", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"},"data":{"k":"v"}}`), metav1.PatchOptions{FieldManager: "me"})
	if err != nil || made.UID == "" {
		t.Errorf("apply of a new object: %v", err)
	}
	if _, err := cms.Patch(ctx, "none", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("patch of nothing: %v", err)
	}
}
