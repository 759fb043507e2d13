package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"mgr/api"
	"mgr/api/apitest"
)

type explainer struct{ err error }

func (e explainer) Explain(context.Context, string, string) (any, error) { return nil, e.err }

// An error that wraps a Status is answered with that Status.
func TestWrappedStatus(t *testing.T) {
	missing := apierrors.NewNotFound(corev1.Resource("pods"), "nobody")
	for _, c := range []struct {
		err     error
		code    int
		message string
	}{
		{fmt.Errorf("explain pod default/nobody: %w", missing), http.StatusNotFound, `pods "nobody" not found`},
		{errors.New("out of ink"), http.StatusInternalServerError, "out of ink"},
	} {
		s := apitest.New(t, func(cfg *api.Config) { cfg.Explainer = explainer{c.err} })
		err := s.Client.CoreV1().RESTClient().Get().AbsPath("/mgr/v1/why/default/nobody").Do(t.Context()).Error()
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != int32(c.code) || status.Status().Message != c.message {
			t.Errorf("%v: answered with %v", c.err, err)
		}
	}
}

// kubectl asks for the kinds that users defined when it does not know.
func TestNoCustomKinds(t *testing.T) {
	s := apitest.New(t)
	crds := dynamic.NewForConfigOrDie(s.Config).Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	list, err := crds.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 || list.GetKind() != "CustomResourceDefinitionList" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := crds.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1"}}, metav1.CreateOptions{}); !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
		t.Errorf("create: %v", err)
	}
}
