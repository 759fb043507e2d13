package api

import (
	"net/http"

	"k8s.io/apimachinery/pkg/util/managedfields"

	"mgr/resource"
)

// specialSub is a subresource with code of its own; nil: it is not served.
func (s *Server) specialSub(e *endpoint, sub *resource.Subresource, types func() managedfields.TypeConverter) map[string]http.Handler {
	return nil
}
