package api

import (
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// dispatch finds the row, the path and the verb of a resource request.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) {
	info, _ := request.RequestInfoFrom(r.Context())
	if info == nil || !info.IsResourceRequest {
		s.notFound(w, r)
		return
	}
	e := s.byGVR[schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}]
	if e == nil || (e.kind.Namespaced && info.Namespace == "" && needsNamespace(info)) || (!e.kind.Namespaced && info.Namespace != "" && info.Resource != "namespaces") {
		s.notFound(w, r)
		return
	}
	if len(info.Parts) > 3 && info.Subresource != "proxy" {
		s.notFound(w, r)
		return
	}
	if mayTravel(r.URL.RawQuery) {
		if r = s.travel(w, r, e, info); r == nil {
			return
		}
	}
	verbs := e.verbs
	if info.Subresource != "" {
		if verbs = e.subs[info.Subresource]; verbs == nil {
			s.notFound(w, r)
			return
		}
		if any := verbs["*"]; any != nil {
			any.ServeHTTP(w, r)
			return
		}
	} else if s.fast(w, r, e, info) {
		return
	}
	h := verbs[info.Verb]
	if h == nil || wrongName(info) {
		s.fail(w, r, apierrors.NewMethodNotSupported(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, methodName(r, info)))
		return
	}
	h.ServeHTTP(w, r)
}

// wrongName: what is created is named in the body, what is changed in the path.
func wrongName(info *request.RequestInfo) bool {
	switch info.Verb {
	case "create":
		return info.Name != "" && info.Subresource == ""
	case "update", "patch":
		return info.Name == ""
	}
	return false
}

func methodName(r *http.Request, info *request.RequestInfo) string {
	if info.Verb == "" {
		return r.Method
	}
	return info.Verb
}

// needsNamespace: all objects of all namespaces can be listed and watched, nothing else.
func needsNamespace(info *request.RequestInfo) bool {
	return info.Verb != "list" && info.Verb != "watch"
}

// unavailable is the answer for what this master was not set up to do.
func unavailable(what string) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("%s is not available on this master", what))
}
