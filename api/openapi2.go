package api

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"github.com/munnerz/goautoneg"
	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// swagger serves OpenAPI v2 for clients that still ask for it: the schemas and operations of v3 in the older form, all
// groups in one document. It is made at the first request, and only its compressed forms are kept.
type swagger struct {
	s    *Server
	json func() (document, error)
	wire func() (document, error) // protobuf, as kubectl asks for it
}

// document is one form of it.
type document struct {
	contentType, etag string
	gzipped           []byte
	made              time.Time
}

// Media types of the protobuf form; the first is not a valid one, and yet what clients send.
const (
	swaggerProtoOld = "com.github.proto-openapi.spec.v2@v1.0+protobuf"
	swaggerProto    = "com.github.proto-openapi.spec.v2.v1.0+protobuf"
)

func newSwagger(s *Server) *swagger {
	return &swagger{
		s: s,
		json: sync.OnceValues(func() (document, error) {
			text, err := s.swagger().MarshalJSON()
			if err != nil {
				return document{}, fmt.Errorf("encoding OpenAPI v2: %w", err)
			}
			return newDocument("application/json", text)
		}),
		wire: sync.OnceValues(func() (document, error) {
			text, err := s.swagger().MarshalJSON()
			if err != nil {
				return document{}, fmt.Errorf("encoding OpenAPI v2: %w", err)
			}
			parsed, err := openapi_v2.ParseDocument(text)
			if err != nil {
				return document{}, fmt.Errorf("reading OpenAPI v2: %w", err)
			}
			wire, err := proto.Marshal(parsed)
			if err != nil {
				return document{}, fmt.Errorf("encoding OpenAPI v2 as protobuf: %w", err)
			}
			return newDocument("application/"+swaggerProto, wire)
		}),
	}
}

func newDocument(contentType string, data []byte) (document, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(data); err != nil {
		return document{}, fmt.Errorf("compressing OpenAPI v2: %w", err)
	}
	if err := z.Close(); err != nil {
		return document{}, fmt.Errorf("compressing OpenAPI v2: %w", err)
	}
	return document{contentType: contentType, etag: fmt.Sprintf(`"%X"`, sha256.Sum256(data)), gzipped: out.Bytes(), made: time.Now()}, nil
}

// ServeHTTP implements http.Handler.
func (sw *swagger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	form := sw.accepted(r.Header.Get("Accept"))
	if form == nil {
		e := apierrors.NewGenericServerResponse(http.StatusNotAcceptable, r.Method, schema.GroupResource{}, "", "", 0, true)
		e.ErrStatus.Message = "OpenAPI v2 is served as application/json and application/" + swaggerProto
		r.Header.Del("Accept") // nothing that is asked for can carry the Status
		sw.s.fail(w, r, e)
		return
	}
	d, err := form()
	if err != nil {
		sw.s.fail(w, r, apierrors.NewInternalError(err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", d.contentType)
	h.Set("Etag", d.etag)
	h.Set("Vary", "Accept, Accept-Encoding")
	body := d.gzipped
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
	} else if body, err = unzip(body); err != nil {
		sw.s.fail(w, r, apierrors.NewInternalError(err))
		return
	}
	http.ServeContent(w, r, "", d.made, bytes.NewReader(body)) // 304 by the ETag
}

func unzip(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("reading OpenAPI v2: %w", err)
	}
	return io.ReadAll(z)
}

// accepted finds the form that the client likes best; nil: there is none.
func (sw *swagger) accepted(accept string) func() (document, error) {
	if accept == "" {
		return sw.json
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Type != "application" && clause.Type != "*" {
			continue
		}
		switch clause.SubType {
		case "json", "*":
			return sw.json
		case swaggerProto, swaggerProtoOld:
			return sw.wire
		}
	}
	return nil
}

// swagger makes the document.
func (s *Server) swagger() *spec.Swagger {
	b := schemaBuilder{components: map[string]*spec.Schema{}, refs: "#/definitions/", swagger: true}
	paths := map[string]spec.PathItem{}
	for _, gv := range s.groupVersions() {
		for path, p := range s.paths(&b, gv) {
			paths[path] = spec.PathItem{PathItemProps: spec.PathItemProps{
				Get: older(p.Get), Post: older(p.Post), Put: older(p.Put), Patch: older(p.Patch), Delete: older(p.Delete),
				Head: older(p.Head), Options: older(p.Options), Parameters: variables(p.Parameters),
			}}
		}
	}
	definitions := make(spec.Definitions, len(b.components))
	for name, c := range b.components {
		definitions[name] = *c
	}
	return &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger: "2.0", Info: about(), Paths: &spec.Paths{Paths: paths}, Definitions: definitions,
	}}
}

// variables of a path: {namespace}, {name}, {path}.
func variables(all []*spec3.Parameter) []spec.Parameter {
	var out []spec.Parameter
	for _, p := range all {
		out = append(out, olderParameter(p))
	}
	return out
}

func olderParameter(p *spec3.Parameter) spec.Parameter {
	out := spec.Parameter{
		ParamProps:   spec.ParamProps{Name: p.Name, In: p.In, Required: p.Required},
		SimpleSchema: spec.SimpleSchema{Type: "string"},
	}
	if p.Schema != nil && len(p.Schema.Type) == 1 && p.Schema.Type[0] != "array" && p.Schema.Type[0] != "object" {
		out.Type = p.Schema.Type[0]
	}
	return out
}

// older is an operation in the form of OpenAPI v2.
func older(op *spec3.Operation) *spec.Operation {
	if op == nil {
		return nil
	}
	out := &spec.Operation{
		VendorExtensible: op.VendorExtensible,
		OperationProps:   spec.OperationProps{ID: op.OperationId, Responses: &spec.Responses{}},
	}
	out.Responses.StatusCodeResponses = map[int]spec.Response{}
	for code, answer := range op.Responses.StatusCodeResponses {
		r := spec.Response{ResponseProps: spec.ResponseProps{Description: answer.Description}}
		for mediaType, content := range answer.Content {
			r.Schema = content.Schema
			if !slices.Contains(out.Produces, mediaType) {
				out.Produces = append(out.Produces, mediaType)
			}
		}
		out.Responses.StatusCodeResponses[code] = r
	}
	slices.Sort(out.Produces)
	out.Parameters = variables(op.Parameters)
	if op.RequestBody == nil {
		return out
	}
	body := spec.Parameter{ParamProps: spec.ParamProps{Name: "body", In: "body", Required: op.RequestBody.Required}}
	for mediaType, content := range op.RequestBody.Content {
		out.Consumes, body.Schema = append(out.Consumes, mediaType), content.Schema
	}
	slices.Sort(out.Consumes)
	out.Parameters = append(out.Parameters, body)
	return out
}
