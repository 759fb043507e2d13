package api

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"mgr/resource"
)

// operation is one verb on one path, before it is written as OpenAPI. Names are those that kube-apiserver gives, so that clients
// generated from either document have the same methods.
type operation struct {
	method, action, id string
	kind               schema.GroupVersionKind // x-kubernetes-group-version-kind
	query              []string
	options            reflect.Type // struct whose fields are query parameters, for streams and proxies
	body, answer       reflect.Type // nil: none, or text
	codes              []int
	patch              bool
}

// Query parameters by what a request does.
var (
	writeParameters  = []string{"dryRun", "fieldManager", "fieldValidation"}
	patchParameters  = append(slices.Clone(writeParameters), "force")
	deleteParameters = []string{"dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"}
	listParameters   = []string{"continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds"}
	watchParameters  = append([]string{"allowWatchBookmarks", "watch"}, listParameters...)
)

// parameterTypes of query parameters that are no strings.
var parameterTypes = map[string]string{
	"allowWatchBookmarks": "boolean", "watch": "boolean", "sendInitialEvents": "boolean", "orphanDependents": "boolean", "force": "boolean",
	"limit": "integer", "timeoutSeconds": "integer", "gracePeriodSeconds": "integer",
}

// verbNames of operations: Kubernetes' verb → method, x-kubernetes-action, beginning of the name.
var verbNames = map[string][3]string{
	"get": {"get", "get", "read"}, "list": {"get", "list", "list"}, "create": {"post", "post", "create"}, "update": {"put", "put", "replace"},
	"patch": {"patch", "patch", "patch"}, "delete": {"delete", "delete", "delete"}, "deletecollection": {"delete", "deletecollection", "delete"},
}

// paths of a group and version; the schemas that they refer to are collected by b.
func (s *Server) paths(b *schemaBuilder, gv schema.GroupVersion) map[string]*spec3.Path {
	paths := map[string]*spec3.Path{}
	for _, k := range s.rows(gv) {
		b.ref(reflect.TypeOf(k.New()).Elem())
		if k.NewList != nil {
			b.ref(reflect.TypeOf(k.NewList()).Elem())
		}
		for path, operations := range s.operations(k) {
			paths[path] = b.path(path, operations)
		}
	}
	return paths
}

// operations of a row by path.
func (s *Server) operations(k *resource.Kind) map[string][]operation {
	name := func(verb, suffix string) string {
		collection, scope := "", ""
		if verb == "deletecollection" {
			collection = "Collection"
		}
		if k.Namespaced {
			scope = "Namespaced"
		}
		return verbNames[verb][2] + groupTitle(k.GroupVersion()) + collection + scope + k.Kind + suffix
	}
	base, out := apiPrefix(k.GroupVersion()), map[string][]operation{}
	all := base + "/" + k.Resource
	if k.Namespaced {
		base += "/namespaces/{namespace}"
	}
	base += "/" + k.Resource
	one := base + "/{name}"
	self := reflect.TypeOf(k.New()).Elem()
	for _, verb := range verbsOf(k) {
		if verb == "watch" {
			continue // a list with a parameter
		}
		path := one
		if verb == "list" || verb == "create" || verb == "deletecollection" {
			path = base
		}
		out[path] = append(out[path], verbOperation(verb, name(verb, ""), k, k.GVK(), self))
		if verb == "list" && all != base {
			op := verbOperation(verb, "list"+groupTitle(k.GroupVersion())+k.Kind+"ForAllNamespaces", k, k.GVK(), self)
			out[all] = append(out[all], op)
		}
	}
	for i := range k.Subresources {
		if sub := &k.Subresources[i]; s.byGVR[k.GroupVersionResource].subs[sub.Name] != nil {
			subOperations(k, sub, one+"/"+sub.Name, name, out)
		}
	}
	return out
}

func verbOperation(verb, id string, k *resource.Kind, kind schema.GroupVersionKind, self reflect.Type) operation {
	n := verbNames[verb]
	op := operation{method: n[0], action: n[1], id: id, kind: kind, answer: self, codes: []int{200}}
	switch verb {
	case "list":
		op.query, op.answer = watchParameters, reflect.TypeOf(k.NewList()).Elem()
	case "create":
		op.query, op.body, op.codes = writeParameters, self, []int{200, 201, 202}
	case "update":
		op.query, op.body, op.codes = writeParameters, self, []int{200, 201}
	case "patch":
		op.query, op.body, op.codes, op.patch = patchParameters, reflect.TypeFor[metav1.Patch](), []int{200, 201}, true
	case "delete":
		op.query, op.body, op.answer, op.codes = deleteParameters, reflect.TypeFor[metav1.DeleteOptions](), reflect.TypeFor[metav1.Status](), []int{200, 202}
	case "deletecollection":
		op.query = append(slices.Clone(deleteParameters), listParameters...)
		op.body, op.answer = reflect.TypeFor[metav1.DeleteOptions](), reflect.TypeFor[metav1.Status]()
	}
	return op
}

// subOperations adds the paths of a subresource. Streams and proxies "connect": what their parameters are says their options type.
func subOperations(k *resource.Kind, sub *resource.Subresource, path string, name func(verb, suffix string) string, out map[string][]operation) {
	kind, title := subKind(k, sub), strings.ToUpper(sub.Name[:1])+sub.Name[1:]
	self := reflect.TypeOf(k.New()).Elem()
	if obj, err := resource.Scheme.New(kind); err == nil {
		self = reflect.TypeOf(obj).Elem()
	}
	if sub.Name == "log" {
		op := operation{method: "get", action: "get", id: name("get", title), kind: kind, query: []string{"pretty"}, codes: []int{200}}
		op.options = reflect.TypeFor[corev1.PodLogOptions]()
		out[path] = append(out[path], op)
		return
	}
	if !strings.HasSuffix(kind.Kind, "Options") {
		for _, verb := range sub.Verbs {
			out[path] = append(out[path], verbOperation(verb, name(verb, title), k, kind, self))
		}
		return
	}
	methods := []string{"get", "post"}
	if sub.Name == "proxy" {
		methods = []string{"get", "post", "put", "patch", "delete", "head", "options"}
	}
	for _, m := range methods {
		id := "connect" + groupTitle(k.GroupVersion()) + strings.ToUpper(m[:1]) + m[1:] + strings.TrimPrefix(name("get", title), "read"+groupTitle(k.GroupVersion()))
		op := operation{method: m, action: "connect", id: id, kind: kind, options: self, codes: []int{200}}
		out[path] = append(out[path], op)
		if sub.Name == "proxy" {
			op.id += "WithPath"
			out[path+"/{path}"] = append(out[path+"/{path}"], op)
		}
	}
}

// groupTitle of a group and version in the names of operations: CoreV1, RbacAuthorizationV1.
func groupTitle(gv schema.GroupVersion) string {
	group := strings.TrimSuffix(gv.Group, ".k8s.io")
	if group == "" {
		group = "core"
	}
	title := ""
	for part := range strings.SplitSeq(group+"."+gv.Version, ".") {
		title += strings.ToUpper(part[:1]) + part[1:]
	}
	return title
}

func (b *schemaBuilder) path(path string, operations []operation) *spec3.Path {
	p := &spec3.Path{}
	for _, name := range []string{"name", "namespace", "path"} {
		if strings.Contains(path, "{"+name+"}") {
			p.Parameters = append(p.Parameters, &spec3.Parameter{ParameterProps: spec3.ParameterProps{
				Name: name, In: "path", Required: true, Schema: spec.StringProperty()}})
		}
	}
	for i := range operations {
		at := map[string]**spec3.Operation{"get": &p.Get, "post": &p.Post, "put": &p.Put, "patch": &p.Patch, "delete": &p.Delete, "head": &p.Head, "options": &p.Options}
		*at[operations[i].method] = b.operation(&operations[i])
	}
	return p
}

func (b *schemaBuilder) operation(o *operation) *spec3.Operation {
	op := &spec3.Operation{OperationProps: spec3.OperationProps{
		OperationId: o.id,
		Responses:   &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: map[int]*spec3.Response{}}},
	}}
	op.AddExtension("x-kubernetes-action", o.action)
	op.AddExtension("x-kubernetes-group-version-kind", gvkExtension(o.kind))
	b.parameters(op, o)
	if o.body != nil {
		op.RequestBody = &spec3.RequestBody{RequestBodyProps: spec3.RequestBodyProps{
			Required: o.method != "delete", Content: b.content(o.body, bodyTypes(o)...)}}
	}
	answer := map[string]*spec3.MediaType{"*/*": {MediaTypeProps: spec3.MediaTypeProps{Schema: spec.StringProperty()}}}
	if o.answer != nil {
		answer = b.content(o.answer, "application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
	}
	texts := map[int]string{200: "OK", 201: "Created", 202: "Accepted"}
	for _, code := range o.codes {
		op.Responses.StatusCodeResponses[code] = &spec3.Response{ResponseProps: spec3.ResponseProps{Description: texts[code], Content: answer}}
	}
	op.Responses.StatusCodeResponses[401] = &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}
	return op
}

func (b *schemaBuilder) parameters(op *spec3.Operation, o *operation) {
	add := func(name string, s *spec.Schema) {
		op.Parameters = append(op.Parameters, &spec3.Parameter{ParameterProps: spec3.ParameterProps{Name: name, In: "query", Schema: s}})
	}
	for _, name := range o.query {
		kind := parameterTypes[name]
		if kind == "" {
			kind = "string"
		}
		add(name, &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{kind}}})
	}
	if o.options == nil {
		add("pretty", spec.StringProperty())
		return
	}
	for f := range o.options.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		if f.Type.Kind() == reflect.Slice { // the parameter repeats
			f.Type = f.Type.Elem()
		}
		add(name, b.inline(indirect(f.Type)))
	}
}

func bodyTypes(o *operation) []string {
	if o.patch {
		return []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
	}
	return []string{"*/*"}
}

func (b *schemaBuilder) content(t reflect.Type, mediaTypes ...string) map[string]*spec3.MediaType {
	out := make(map[string]*spec3.MediaType, len(mediaTypes))
	for _, m := range mediaTypes {
		out[m] = &spec3.MediaType{MediaTypeProps: spec3.MediaTypeProps{Schema: b.ref(t)}}
	}
	return out
}

func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}
