package api

import (
	"cmp"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/gorilla/mux"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"mgr/api/tags"
	"mgr/resource"
)

// openAPIRoutes serve OpenAPI v3: a document for each group and version, made at its first request from the Go types of
// the rows (field names, docs and patch strategies are all in them). kubectl needs it to explain kinds and to see
// that the server validates fields itself.
func (s *Server) openAPIRoutes(r *mux.Router) {
	docs := handler3.NewOpenAPIService()
	for _, gv := range s.groupVersions() {
		docs.UpdateGroupVersionLazy(apiPrefix(gv)[1:], cached.Func(func() (*spec3.OpenAPI, string, error) {
			doc := s.openAPI(gv)
			text, err := doc.MarshalJSON()
			return doc, fmt.Sprintf("%X", sha512.Sum512_256(text)), err // the hash is the ETag
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
	b := schemaBuilder{components: map[string]*spec.Schema{}, refs: "#/components/schemas/", of: gv}
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

func gvkExtension(gvk schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// schemaBuilder collects the schemas of Go types.
type schemaBuilder struct {
	components map[string]*spec.Schema
	refs       string // where the document keeps them
	swagger    bool   // OpenAPI v2: a reference may stand beside a description
	of         schema.GroupVersion
}

// kinds says what a type is called when it stands alone. Options are known in every group: a document names the core's and its own.
func (b *schemaBuilder) kinds(c *spec.Schema, t reflect.Type) {
	obj, ok := reflect.New(t).Interface().(runtime.Object)
	if !ok {
		return
	}
	known, _, err := resource.Scheme.ObjectKinds(obj)
	if err != nil {
		return
	}
	slices.SortFunc(known, func(x, y schema.GroupVersionKind) int { return cmp.Compare(x.String(), y.String()) })
	var all []any
	for _, gvk := range known {
		if len(known) == 1 || b.swagger || gvk.GroupVersion() == b.of || gvk.GroupVersion() == metav1.Unversioned {
			all = append(all, gvkExtension(gvk))
		}
	}
	if all != nil {
		c.AddExtension("x-kubernetes-group-version-kind", all)
	}
}

// Kubernetes' types say how they are called and written in OpenAPI, and what their fields mean.
type (
	named      interface{ OpenAPIModelName() string }
	typed      interface{ OpenAPISchemaType() []string }
	formatted  interface{ OpenAPISchemaFormat() string }
	documented interface{ SwaggerDoc() map[string]string }
	ambiguous  interface{ OpenAPIV3OneOfTypes() []string }
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
	name := modelName(t)
	if name == "" || t.Kind() != reflect.Struct {
		return b.inline(t)
	}
	if b.components[name] == nil {
		c := &spec.Schema{}
		b.components[name] = c // before its fields: types may contain themselves
		*c = *b.inline(t)
		b.kinds(c, t)
		if atomic := tags.Of(t, "")["structType"]; atomic != nil {
			c.AddExtension("x-kubernetes-map-type", atomic[0])
		}
	}
	return spec.RefSchema(b.refs + name)
}

func (b *schemaBuilder) inline(t reflect.Type) *spec.Schema {
	zero := reflect.New(t).Elem().Interface()
	if s, ok := zero.(typed); ok {
		out := &spec.Schema{SchemaProps: spec.SchemaProps{Type: s.OpenAPISchemaType()}}
		if o, ok := zero.(ambiguous); ok && !b.swagger {
			out.Type = nil
			for _, name := range o.OpenAPIV3OneOfTypes() {
				out.OneOf = append(out.OneOf, spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{name}}})
			}
		}
		if f, ok := zero.(formatted); ok {
			out.Format = f.OpenAPISchemaFormat()
		}
		if d, ok := zero.(documented); ok {
			out.Description = d.SwaggerDoc()[""]
		}
		return out
	}
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
		omit := strings.Contains(rest, "omitempty") || strings.Contains(rest, "omitzero")
		said := tags.Of(t, name)
		describeField(p, f, said)
		p.Default = defaultOf(f.Type, omit, said["default"])
		if said["required"] != nil || said["optional"] == nil && !omit {
			s.Required = append(s.Required, name)
		}
		s.SetProperty(name, *p)
	}
}

// describeField says how a field is merged by patches and by server-side apply.
func describeField(p *spec.Schema, f reflect.StructField, said map[string][]string) {
	if strategy := f.Tag.Get("patchStrategy"); strategy != "" {
		p.AddExtension("x-kubernetes-patch-strategy", strategy)
	}
	if key := f.Tag.Get("patchMergeKey"); key != "" {
		p.AddExtension("x-kubernetes-patch-merge-key", key)
	}
	for tag, extension := range map[string]string{
		"listType": "x-kubernetes-list-type", "mapType": "x-kubernetes-map-type", "structType": "x-kubernetes-map-type",
	} {
		if values := said[tag]; values != nil {
			p.AddExtension(extension, values[0])
		}
	}
	if keys := said["listMapKey"]; keys != nil {
		p.AddExtension("x-kubernetes-list-map-keys", keys)
	}
}

// defaultOf a field: what its comment says, else what leaving it out means in Go. Types that decode themselves have none.
func defaultOf(t reflect.Type, omit bool, said []string) any {
	if said != nil {
		var v any
		if json.Unmarshal([]byte(said[0]), &v) == nil {
			return v
		}
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		return map[string]any{}
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Array, reflect.Interface:
		return nil
	}
	if omit {
		return nil
	}
	return reflect.Zero(t).Interface()
}
