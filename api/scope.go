package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"mgr/fsm"
	"mgr/resource"
)

// minWatch is the shortest life of a watch whose client names no timeout; the actual one is up to twice as long.
const minWatch = 30 * time.Minute

var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

// endpoint is everything below one resource: the objects' own path and its subresources, each a handler by verb.
type endpoint struct {
	kind  *resource.Kind
	store *store
	scope *handlers.RequestScope
	head  []byte                  // of every stored object: {"kind":"Pod","apiVersion":"v1",
	verbs map[string]http.Handler // by RequestInfo.Verb
	subs  map[string]map[string]http.Handler

	frames  recentFrames
	pieces  pieces
	creator func() (*creator, error) // made at the first create, which needs the schema
}

// perRequest is a handler that is built anew for each request: those of the library wrap the admission they are given in
// variables that outlive a request, so that one built once would grow with every request it serves.
type perRequest func() http.HandlerFunc

func (build perRequest) ServeHTTP(w http.ResponseWriter, r *http.Request) { build()(w, r) }

// endpoints makes the endpoint of every row.
func (s *Server) endpoints(kinds []*resource.Kind) (map[schema.GroupVersionResource]*endpoint, error) {
	types := sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(resource.Scheme) })
	out := make(map[schema.GroupVersionResource]*endpoint, len(kinds))
	for _, k := range kinds {
		e, err := s.endpoint(k, types)
		if err != nil {
			return nil, fmt.Errorf("serving %s: %w", k.GroupVersionResource, err)
		}
		out[k.GroupVersionResource] = e
	}
	for _, k := range reviewKinds() {
		out[k.GroupVersionResource] = s.reviewEndpoint(k)
		s.kinds = append(s.kinds, k)
	}
	for _, e := range s.usageEndpoints(out[resource.Storage("nodes").GroupVersionResource], out[podRow().GroupVersionResource]) {
		out[e.kind.GroupVersionResource] = e
		s.kinds = append(s.kinds, e.kind)
	}
	k := bindingKind()
	out[k.GroupVersionResource] = s.bindingEndpoint(k, out[podRow().GroupVersionResource].store)
	s.kinds = append(s.kinds, k)
	return out, nil
}

func (s *Server) endpoint(k *resource.Kind, types func() managedfields.TypeConverter) (*endpoint, error) {
	st := newStore(s, k, "", &k.Rules)
	apiVersion, kind := k.GVK().ToAPIVersionAndKind()
	e := &endpoint{
		kind: k, store: st, scope: s.scope(k, ""),
		head: fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, kind, apiVersion),
		subs: map[string]map[string]http.Handler{},

		creator: sync.OnceValues(func() (*creator, error) { return newCreator(k, types()) }),
	}
	all := map[string]http.Handler{
		"get":    perRequest(func() http.HandlerFunc { return handlers.GetResource(st, e.scope) }),
		"list":   perRequest(func() http.HandlerFunc { return handlers.ListResource(st, st, e.scope, false, minWatch) }),
		"watch":  perRequest(func() http.HandlerFunc { return handlers.ListResource(st, st, e.scope, true, minWatch) }),
		"delete": perRequest(func() http.HandlerFunc { return handlers.DeleteResource(st, true, e.scope, s.cfg.Admission) }),
		"deletecollection": perRequest(func() http.HandlerFunc {
			return handlers.DeleteCollection(st, true, e.scope, s.cfg.Admission)
		}),
		"create": s.writing(e.scope, k, "", types, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.CreateResource(st, sc, s.cfg.Admission)
		}),
		"update": s.writing(e.scope, k, "", types, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.UpdateResource(st, sc, s.cfg.Admission)
		}),
		"patch": s.writing(e.scope, k, "", types, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.PatchResource(st, sc, s.cfg.Admission, patchTypes)
		}),
	}
	e.verbs = map[string]http.Handler{}
	for _, v := range verbsOf(k) {
		e.verbs[v] = all[v]
	}
	for i := range k.Subresources {
		sub := &k.Subresources[i]
		if sub.Rules != nil {
			e.subs[sub.Name] = s.objectSub(k, sub, types)
		} else if hs := s.specialSub(e, sub); hs != nil {
			e.subs[sub.Name] = hs
		}
	}
	return e, nil
}

func verbsOf(k *resource.Kind) []string {
	if len(k.Verbs) == 0 {
		return resource.AllVerbs
	}
	return k.Verbs
}

// objectSub is a subresource that reads and writes the object itself (status, ephemeralcontainers, finalize).
func (s *Server) objectSub(k *resource.Kind, sub *resource.Subresource, types func() managedfields.TypeConverter) map[string]http.Handler {
	st := newStore(s, k, sub.Name, sub.Rules)
	scope := s.scope(k, sub.Name)
	out := map[string]http.Handler{
		"get": perRequest(func() http.HandlerFunc { return handlers.GetResource(st, scope) }),
		"update": s.writing(scope, k, sub.Name, types, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.UpdateResource(st, sc, s.cfg.Admission)
		}),
		"patch": s.writing(scope, k, sub.Name, types, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.PatchResource(st, sc, s.cfg.Admission, patchTypes)
		}),
	}
	for v := range out {
		if !slices.Contains(sub.Verbs, v) {
			delete(out, v)
		}
	}
	return out
}

// writing is a handler of a path that writes the row's objects.
func (s *Server) writing(scope *handlers.RequestScope, k *resource.Kind, sub string, types func() managedfields.TypeConverter, build func(*handlers.RequestScope) http.HandlerFunc) http.Handler {
	return s.fielded(scope, resetFields(k, sub), types, build)
}

// managed is a handler of a path whose body is a kind of its own.
func (s *Server) managed(scope *handlers.RequestScope, types func() managedfields.TypeConverter, build func(*handlers.RequestScope) http.HandlerFunc) http.Handler {
	return s.fielded(scope, nil, types, build)
}

// fielded builds a handler that keeps managed fields; their schema is parsed at the first write.
func (s *Server) fielded(scope *handlers.RequestScope, reset map[fieldpath.APIVersion]fieldpath.Filter, types func() managedfields.TypeConverter, build func(*handlers.RequestScope) http.HandlerFunc) http.Handler {
	ready := sync.OnceValues(func() (*handlers.RequestScope, error) {
		own := *scope
		var err error
		own.FieldManager, err = managedfields.NewDefaultFieldManager(types(), own.UnsafeConvertor, own.Defaulter, own.Creater,
			own.Kind, own.HubGroupVersion, own.Subresource, reset)
		return &own, err
	})
	s.lazy = append(s.lazy, func() { _, _ = ready() }) // an error is shown to whoever writes
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own, err := ready()
		if err != nil {
			s.fail(w, r, fmt.Errorf("managed fields of %s: %w", scope.Kind, err))
			return
		}
		build(own)(w, r)
	})
}

// resetFields are the fields a path ignores, so that nobody comes to own them by writing them there.
func resetFields(k *resource.Kind, sub string) map[fieldpath.APIVersion]fieldpath.Filter {
	hasStatus := slices.ContainsFunc(k.Subresources, func(s resource.Subresource) bool { return s.Name == "status" })
	var set *fieldpath.Set
	switch {
	case sub == "" && hasStatus:
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	case sub == "status":
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
	case sub == "resize":
		return map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(k.Version): resizeFields()}
	default:
		return nil
	}
	apiVersion, _ := k.GVK().ToAPIVersionAndKind()
	return map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(apiVersion): fieldpath.NewExcludeSetFilter(set)}
}

// resizeFields lets a resize own what a resize can write, and nothing else of the pod.
func resizeFields() fieldpath.Filter {
	var own []*fieldpath.SetMatcher
	for _, list := range []string{"containers", "initContainers"} {
		for _, name := range []string{"resources", "resizePolicy"} {
			own = append(own, fieldpath.MakePrefixMatcherOrDie("spec", list, fieldpath.MatchAnyPathElement(), name))
		}
	}
	return fieldpath.NewIncludeMatcherFilter(own...)
}

// scope is what the handlers know of a path.
func (s *Server) scope(k *resource.Kind, sub string) *handlers.RequestScope {
	conv := newConvertor(k)
	d := rowDefaulter{k}
	return &handlers.RequestScope{
		Namer:                    handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor()), ClusterScoped: !k.Namespaced},
		Serializer:               codecs{CodecFactory: s.codecs, defaulter: d},
		ParameterCodec:           s.parameters,
		Creater:                  resource.Scheme,
		Convertor:                conv,
		Defaulter:                d,
		Typer:                    resource.Scheme,
		UnsafeConvertor:          conv,
		Authorizer:               s.cfg.Authorizer,
		EquivalentResourceMapper: s.equivalents,
		TableConvertor:           tables{k},
		Resource:                 k.GroupVersionResource,
		Kind:                     k.GVK(),
		Subresource:              sub,
		MetaGroupVersion:         metav1.SchemeGroupVersion,
		HubGroupVersion:          k.GroupVersion(),
		MaxRequestBodyBytes:      fsm.MaxObjectBytes,
	}
}

var _ rest.StandardStorage = &store{}

// ConvertToTable implements rest.TableConvertor.
func (st *store) ConvertToTable(ctx context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	return tables{st.kind}.ConvertToTable(ctx, object, tableOptions)
}
