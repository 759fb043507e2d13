package api_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/api/apitest"
)

// change rewrites one field of a continue token.
func change(t *testing.T, token, field string, to func(old float64) float64) string {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	old, ok := fields[field].(float64)
	if !ok {
		t.Fatalf("the token %s has no number %s", text, field)
	}
	fields[field] = to(old)
	if text, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func TestContinueTokensExpire(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	if _, err := s.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "pages"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	maps := s.Client.CoreV1().ConfigMaps("pages")
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	page := func(token string) (*corev1.ConfigMapList, error) {
		return maps.List(ctx, metav1.ListOptions{Limit: 1, Continue: token})
	}
	first, err := page("")
	if err != nil || len(first.Items) != 1 || first.Items[0].Name != "a" {
		t.Fatalf("first page: %+v, %v", first, err)
	}
	age := func(token string, by time.Duration) string {
		return change(t, token, "began", func(old float64) float64 { return old - by.Seconds() })
	}
	second, err := page(age(first.Continue, 4*time.Minute))
	if err != nil || len(second.Items) != 1 || second.Items[0].Name != "b" || second.ResourceVersion != first.ResourceVersion {
		t.Fatalf("second page after four minutes: %+v, %v", second, err)
	}
	if _, err := page(age(second.Continue, 90*time.Second)); !apierrors.IsResourceExpired(err) {
		t.Errorf("third page of a list begun five and a half minutes ago: %v", err)
	}
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "aa"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = page(age(second.Continue, time.Hour))
	var status apierrors.APIStatus
	if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.Status().Continue == "" {
		t.Fatalf("third page after an hour: %v", err)
	}
	third, err := page(status.Status().Continue)
	if err != nil || len(third.Items) != 1 || third.Items[0].Name != "c" || third.ResourceVersion == first.ResourceVersion {
		t.Fatalf("third page of the list as it is now: %+v, %v", third, err)
	}
	if fourth, err := page(third.Continue); err != nil || len(fourth.Items) != 1 || fourth.Items[0].Name != "d" || fourth.Continue != "" {
		t.Errorf("fourth page: %+v, %v", fourth, err)
	}
}
