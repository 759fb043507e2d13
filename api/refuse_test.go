package api_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/api/apitest"
)

// TestRefuse: a server whose state is not to be trusted ends watches, answers reads and writes with 503 and the reason, and still
// says that it lives and is not ready.
func TestRefuse(t *testing.T) {
	s := apitest.New(t)
	ctx := t.Context()
	w, err := s.Client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.Refuse(errors.New("its state is wrong"))
	for range w.ResultChan() {
	}
	for _, version := range []string{"", "0"} {
		_, err := s.Client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{ResourceVersion: version})
		if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "its state is wrong") {
			t.Errorf("a list at %q: %v", version, err)
		}
	}
	if err := s.Client.CoreV1().Pods("default").Delete(ctx, "x", metav1.DeleteOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a write: %v", err)
	}
	for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusInternalServerError, "/metrics": http.StatusOK, "/mgr/v1/members": http.StatusServiceUnavailable} {
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		if rec.Code != want {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
		if path == "/readyz" && !strings.Contains(rec.Body.String(), "state failed: its state is wrong") {
			t.Errorf("%s: %s", path, rec.Body)
		}
	}
}
