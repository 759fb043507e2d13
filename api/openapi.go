package api

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/gorilla/mux"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"mgr/resource"
)

// openAPIRoutes serve OpenAPI v3: a document for each group and version, made at its first request from the Go types of
// the rows (field names, docs and patch strategies are all in them). kubectl needs it to explain kinds and to see
// that the server validates fields itself.
func (s *Server) openAPIRoutes(r *mux.Router) {
	docs := handler3.NewOpenAPIService()
	for _, gv := range s.groupVersions() {
		docs.UpdateGroupVersionLazy(apiPrefix(gv)[1:], cached.Func(func() (*spec3.OpenAPI, string, error) {
			return s.openAPI(gv), Version().GitVersion, nil
		}))
	}
	r.Path("/openapi/v3").Methods(http.MethodGet).HandlerFunc(docs.HandleDiscovery)
	r.Path("/openapi/v2").Methods(http.MethodGet, http.MethodHead).Handler(newSwagger(s))
	r.PathPrefix("/openapi/v3/").Methods(http.MethodGet).Handler(http.HandlerFunc(docs.HandleGroupVersion))
}

func apiPrefix(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.String()
}

func (s *Server) openAPI(gv schema.GroupVersion) *spec3.OpenAPI {
	b := schemaBuilder{components: map[string]*spec.Schema{}, refs: "#/components/schemas/"}
	return &spec3.OpenAPI{
		Version:    "3.0.0",
		Info:       about(),
		Paths:      &spec3.Paths{Paths: s.paths(&b, gv)},
		Components: &spec3.Components{Schemas: b.components},
	}
}

func about() *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: "mgr", Version: Version().GitVersion}}
}

// paths of a group and version; the schemas that they refer to are collected by b.
func (s *Server) paths(b *schemaBuilder, gv schema.GroupVersion) map[string]*spec3.Path {
	paths := map[string]*spec3.Path{}
	for _, k := range s.rows(gv) {
		b.top(k.New(), k.GVK())
		if k.NewList != nil {
			b.top(k.NewList(), gv.WithKind(k.Kind+"List"))
		}
		base := apiPrefix(gv)
		if k.Namespaced {
			base += "/namespaces/{namespace}"
		}
		base += "/" + k.Resource
		paths[base] = b.path(k, map[string]string{"list": "get", "create": "post", "deletecollection": "delete"})
		if k.NewList == nil {
			continue
		}
		paths[base+"/{name}"] = b.path(k, map[string]string{"get": "get", "update": "put", "patch": "patch", "delete": "delete"})
	}
	return paths
}

// writeParameters are the query parameters by which clients see what writes can do.
var writeParameters = []string{"dryRun", "fieldManager", "fieldValidation"}

// path describes the operations of a row's path; verbs maps Kubernetes' verbs to methods.
func (b *schemaBuilder) path(k *resource.Kind, verbs map[string]string) *spec3.Path {
	p := &spec3.Path{}
	for _, verb := range verbsOf(k) {
		body := k.New()
		if verb == "list" {
			body = k.NewList()
		}
		answer := &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "OK", Content: map[string]*spec3.MediaType{
			"application/json": {MediaTypeProps: spec3.MediaTypeProps{Schema: b.ref(reflect.TypeOf(body).Elem())}}}}}
		op := &spec3.Operation{OperationProps: spec3.OperationProps{
			OperationId: verb + k.Group + k.Version + k.Kind,
			Responses:   &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: map[int]*spec3.Response{200: answer}}},
		}}
		op.AddExtension("x-kubernetes-action", verb)
		op.AddExtension("x-kubernetes-group-version-kind", gvkExtension(k.GVK()))
		if method := verbs[verb]; method == "post" || method == "put" || method == "patch" {
			for _, name := range writeParameters {
				op.Parameters = append(op.Parameters, &spec3.Parameter{ParameterProps: spec3.ParameterProps{Name: name, In: "query", Schema: spec.StringProperty()}})
			}
		}
		switch verbs[verb] {
		case "get":
			p.Get = op
		case "post":
			p.Post = op
		case "put":
			p.Put = op
		case "patch":
			p.Patch = op
		case "delete":
			p.Delete = op
		}
	}
	return p
}

func gvkExtension(gvk schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// schemaBuilder collects the schemas of Go types.
type schemaBuilder struct {
	components map[string]*spec.Schema
	refs       string // where the document keeps them
	swagger    bool   // OpenAPI v2: a reference may stand beside a description
}

// top adds a kind that has a path.
func (b *schemaBuilder) top(obj any, gvk schema.GroupVersionKind) {
	t := reflect.TypeOf(obj).Elem()
	b.ref(t)
	if c := b.components[modelName(t)]; c != nil {
		c.AddExtension("x-kubernetes-group-version-kind", []any{gvkExtension(gvk)})
	}
}

// Kubernetes' types say how they are called and written in OpenAPI, and what their fields mean.
type (
	named      interface{ OpenAPIModelName() string }
	typed      interface{ OpenAPISchemaType() []string }
	formatted  interface{ OpenAPISchemaFormat() string }
	documented interface{ SwaggerDoc() map[string]string }
)

func modelName(t reflect.Type) string {
	if n, ok := reflect.Zero(t).Interface().(named); ok {
		return n.OpenAPIModelName()
	}
	return ""
}

// ref returns the schema of t: a reference to a component where t has a name.
func (b *schemaBuilder) ref(t reflect.Type) *spec.Schema {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	zero := reflect.New(t).Elem().Interface()
	if s, ok := zero.(typed); ok {
		format := ""
		if f, ok := zero.(formatted); ok {
			format = f.OpenAPISchemaFormat()
		}
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: s.OpenAPISchemaType(), Format: format}}
	}
	name := modelName(t)
	if name == "" || t.Kind() != reflect.Struct {
		return b.inline(t)
	}
	if b.components[name] == nil {
		c := &spec.Schema{}
		b.components[name] = c // before its fields: types may contain themselves
		*c = *b.inline(t)
	}
	return spec.RefSchema(b.refs + name)
}

func (b *schemaBuilder) inline(t reflect.Type) *spec.Schema {
	switch t.Kind() {
	case reflect.Bool:
		return spec.BooleanProperty()
	case reflect.Int64, reflect.Int, reflect.Uint64:
		return spec.Int64Property()
	case reflect.Int32, reflect.Int16, reflect.Int8, reflect.Uint32, reflect.Uint16, reflect.Uint8:
		return spec.Int32Property()
	case reflect.Float32, reflect.Float64:
		return spec.Float64Property()
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return spec.StrFmtProperty("byte")
		}
		return spec.ArrayProperty(b.ref(t.Elem()))
	case reflect.Map:
		return spec.MapProperty(b.ref(t.Elem()))
	case reflect.Struct:
		return b.object(t)
	case reflect.Interface:
		return &spec.Schema{}
	}
	return spec.StringProperty()
}

func (b *schemaBuilder) object(t reflect.Type) *spec.Schema {
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	docs := map[string]string{}
	if d, ok := reflect.Zero(t).Interface().(documented); ok {
		docs = d.SwaggerDoc()
	}
	s.Description = docs[""]
	if t == reflect.TypeFor[metav1.FieldsV1]() {
		return s
	}
	b.fields(t, docs, s)
	slices.Sort(s.Required)
	return s
}

// fields adds the fields of t to s, those of embedded structs too.
func (b *schemaBuilder) fields(t reflect.Type, docs map[string]string, s *spec.Schema) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			if f.Anonymous && f.Type.Kind() == reflect.Struct {
				inner := map[string]string{}
				if d, ok := reflect.Zero(f.Type).Interface().(documented); ok {
					maps.Copy(inner, d.SwaggerDoc())
				}
				maps.Copy(inner, docs)
				b.fields(f.Type, inner, s)
			}
			continue
		}
		p := b.ref(f.Type)
		if p.Ref.String() != "" && !b.swagger {
			p = &spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{*p}}}
		}
		p.Description = docs[name]
		if strategy := f.Tag.Get("patchStrategy"); strategy != "" {
			p.AddExtension("x-kubernetes-patch-strategy", strategy)
		}
		if key := f.Tag.Get("patchMergeKey"); key != "" {
			p.AddExtension("x-kubernetes-patch-merge-key", key)
		}
		if !strings.Contains(rest, "omitempty") && !strings.Contains(rest, "omitzero") {
			s.Required = append(s.Required, name)
		}
		s.SetProperty(name, *p)
	}
}
