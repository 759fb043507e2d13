package oracle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"mgr/resource"
)

// outcome of one write on one side.
type outcome struct {
	object   any // JSON of the object as it would be stored; nil when refused
	causes   []metav1.StatusCause
	warnings []string
	failure  string // an error without causes
	panicked bool
}

func (o outcome) refused() bool { return len(o.causes) > 0 || o.failure != "" }

// act is one write: a create (old nil), or an update through the main path or a subresource.
type act struct {
	kind     *resource.Kind
	sub      string
	obj, old runtime.Object // as decoded, not defaulted; neither is changed
}

type recorder struct{ texts []string }

func (r *recorder) AddWarning(_, text string) { r.texts = append(r.texts, text) }

// requestContext is what the handlers would have put into the context.
func (a act) requestContext(to warning.Recorder) context.Context {
	m, _ := meta.Accessor(a.obj)
	verb := "create"
	if a.old != nil {
		verb = "update"
		m, _ = meta.Accessor(a.old)
	}
	ctx := request.WithNamespace(context.Background(), m.GetNamespace())
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "oracle", Groups: []string{"system:authenticated"}})
	ctx = warning.WithWarningRecorder(ctx, to)
	return request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, Verb: verb, APIGroup: a.kind.Group, APIVersion: a.kind.Version, Resource: a.kind.Resource,
		Subresource: a.sub, Namespace: m.GetNamespace(), Name: m.GetName(),
	})
}

// stamp sets what rest.FillObjectMetaSystemFields and the name generator do, always the same.
func stamp(obj runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	m.SetUID("00000000-0000-4000-8000-000000000001")
	m.SetCreationTimestamp(metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
	m.SetResourceVersion("")
	if m.GetName() == "" && m.GetGenerateName() != "" {
		m.SetName(m.GetGenerateName() + "abcde")
	}
	return nil
}

// ours is the outcome of an act by our row.
func (a act) ours() outcome {
	var to recorder
	s := ourRules(a.kind, a.sub)
	obj := a.obj.DeepCopyObject()
	if a.kind.Default != nil {
		a.kind.Default(obj)
	}
	var err error
	if a.old == nil {
		if err = stamp(obj); err == nil {
			err = rest.BeforeCreate(s, a.requestContext(&to), obj)
		}
	} else {
		old := a.old.DeepCopyObject()
		if a.kind.Default != nil {
			a.kind.Default(old)
		}
		err = rest.BeforeUpdate(s, a.requestContext(&to), obj, old)
	}
	if s.err != nil {
		err = s.err
	}
	return result(obj, err, to.texts)
}

// upstream is the outcome of an act by Kubernetes, which panics on some objects: kube-apiserver recovers and answers 500.
func (a act) upstream(c counterpart) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			o = outcome{panicked: true}
		}
	}()
	obj, err := internal(a.obj)
	if err != nil {
		return outcome{failure: err.Error()}
	}
	var to recorder
	if a.old == nil {
		if err = errors.Join(stamp(obj), a.begin(c, obj, nil)); err == nil {
			err = rest.BeforeCreate(c.main, a.requestContext(&to), obj)
		}
	} else {
		old, conversion := internal(a.old)
		if conversion != nil {
			return outcome{failure: conversion.Error()}
		}
		var s rest.RESTUpdateStrategy = c.main
		if a.sub != "" {
			s = c.sub[a.sub]
		}
		if err = a.begin(c, obj, old); err == nil {
			err = rest.BeforeUpdate(s, a.requestContext(&to), obj, old)
		}
	}
	if err != nil {
		return result(nil, err, to.texts)
	}
	if c.store != nil && c.store.Decorator != nil {
		c.store.Decorator(obj)
	}
	served, err := external(obj, a.kind.GroupVersion())
	return result(served, err, to.texts)
}

// internal defaults a copy of a served object as Kubernetes does when it decodes it, and converts it.
func internal(served runtime.Object) (runtime.Object, error) {
	obj := served.DeepCopyObject()
	legacyscheme.Scheme.Default(obj)
	gvk, err := kindOf(obj)
	if err != nil {
		return nil, err
	}
	return legacyscheme.Scheme.ConvertToVersion(obj, schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal})
}

// external is what a client reads of an internal object that was stored: written and read again, with defaults.
func external(obj runtime.Object, gv schema.GroupVersion) (runtime.Object, error) {
	served, err := legacyscheme.Scheme.ConvertToVersion(obj, gv)
	if err != nil {
		return nil, err
	}
	legacyscheme.Scheme.Default(served)
	return served, nil
}

func kindOf(obj runtime.Object) (schema.GroupVersionKind, error) {
	kinds, _, err := legacyscheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return schema.GroupVersionKind{}, fmt.Errorf("Kubernetes knows no such type: %w", err)
	}
	return kinds[0], nil
}

func result(obj runtime.Object, err error, warnings []string) outcome {
	o := outcome{warnings: slices.Compact(slices.Sorted(slices.Values(warnings)))}
	var st apierrors.APIStatus
	switch {
	case errors.As(err, &st) && st.Status().Details != nil && len(st.Status().Details.Causes) > 0:
		o.causes = st.Status().Details.Causes
	case err != nil:
		o.failure = err.Error()
	default:
		o.object = plain(obj)
	}
	return o
}
