package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"mgr/fsm"
	"mgr/resource"
)

// creator is the short way of a create: the steps of handlers.CreateResource in the same order and with the same results, for
// a plain body of JSON or protobuf that decodes without a complaint. It decodes once, finds the managed fields in one walk
// (see fieldSet), and answers with the bytes that were stored.
type creator struct {
	kind     *resource.Kind
	schema   *schema.Schema
	named    schema.TypeRef
	noStatus bool
}

// createTimeout is the longest a create may take, as in handlers.
const createTimeout = 34 * time.Second

func newCreator(k *resource.Kind, types managedfields.TypeConverter) (*creator, error) {
	empty := k.New()
	setKind(empty, k.GVK())
	typed, err := types.ObjectToTyped(empty)
	if err != nil {
		return nil, fmt.Errorf("reading the schema of %s: %w", k.GVK(), err)
	}
	return &creator{kind: k, schema: typed.Schema(), named: typed.TypeRef(), noStatus: resetFields(k, "") != nil}, nil
}

// manage sets the managed fields of a new object, whose metadata is m; false: the library must.
func (c *creator) manage(obj runtime.Object, m metav1.Object, manager string) bool {
	if m.GetManagedFields() != nil {
		return false
	}
	set := fieldSet{schema: c.schema, noStatus: c.noStatus, out: make([]byte, 0, 1024)}
	raw, ok := set.root(obj, c.named)
	if !ok {
		return false
	}
	at := metav1.NewTime(time.Now().UTC())
	apiVersion, _ := c.kind.GVK().ToAPIVersionAndKind()
	fields := &metav1.FieldsV1{}
	fields.SetRawBytes(raw)
	m.SetManagedFields([]metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: apiVersion,
		Time: &at, FieldsType: "FieldsV1", FieldsV1: fields,
	}})
	return true
}

// fastCreate returns errNotFast, with r's body as it was, for whatever the handlers must do.
func (e *endpoint) fastCreate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	manager, ok := plainCreate(r)
	answer, known := answerType(r)
	if !ok || !known || e.kind.Resource == "namespaces" {
		return errNotFast
	}
	c, err := e.creator()
	if err != nil {
		return errNotFast
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, fsm.MaxObjectBytes+1))
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failing{err}
	}
	r.Body = rewound{io.MultiReader(bytes.NewReader(body), rest), r.Body}
	if err != nil || len(body) > fsm.MaxObjectBytes {
		return errNotFast
	}
	obj, m := e.decodeNew(r.Header.Get("Content-Type"), body)
	if obj == nil {
		return errNotFast
	}
	out, err := e.createNew(ctx, c, obj, m, manager)
	if err != nil {
		return err
	}
	return e.answerNew(ctx, w, answer, out)
}

// rewound is a body of which some was read already.
type rewound struct {
	io.Reader
	io.Closer
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

const protobufType = "application/vnd.kubernetes.protobuf"

// plainCreate returns who manages the fields; false: an option, or a media type, that the handlers must see.
func plainCreate(r *http.Request) (manager string, ok bool) {
	switch r.Header.Get("Content-Type") {
	case "application/json", protobufType:
	default:
		return "", false
	}
	if r.Header.Get("Content-Encoding") != "" {
		return "", false
	}
	if r.URL.RawQuery != "" {
		q := r.URL.Query()
		for name, values := range q {
			switch {
			case name == "fieldManager" && len(values) == 1:
				manager = values[0]
			case name == "fieldValidation" && len(values) == 1 && (values[0] == metav1.FieldValidationStrict || values[0] == metav1.FieldValidationWarn):
			default:
				return "", false
			}
		}
	}
	if manager == "" {
		manager, _, _ = strings.Cut(r.UserAgent(), "/")
	}
	if manager == "" {
		manager = "unknown"
	}
	return manager, len(manager) <= 128 && printable(manager)
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// answerType is the media type in which the client wants a single object.
func answerType(r *http.Request) (string, bool) {
	if plainJSON(r) {
		return "application/json", true
	}
	return protobufType, plainProtobuf(r)
}

// decodeNew decodes and defaults a body; nil: the handlers must word what is wrong with it.
func (e *endpoint) decodeNew(contentType string, body []byte) (runtime.Object, metav1.Object) {
	obj := e.kind.New()
	if contentType == protobufType {
		serializer, ok := runtime.SerializerInfoForMediaType(e.store.s.codecs.SupportedMediaTypes(), protobufType)
		if !ok {
			return nil, nil
		}
		got, gvk, err := serializer.Serializer.Decode(body, nil, obj)
		if err != nil || got != obj || *gvk != e.kind.GVK() {
			return nil, nil
		}
		setKind(obj, *gvk)
	} else if jsonv2.Unmarshal(body, obj, jsonv2.RejectUnknownMembers(true)) != nil {
		return nil, nil
	}
	m, err := meta.Accessor(obj)
	if err != nil || obj.GetObjectKind().GroupVersionKind() != e.kind.GVK() || len(m.GetOwnerReferences()) > 1 || m.GetManagedFields() != nil {
		return nil, nil
	}
	rowDefaulter{e.kind}.Default(obj)
	return obj, m
}

// createNew runs what lies between decoding and the answer.
func (e *endpoint) createNew(ctx context.Context, c *creator, obj runtime.Object, m metav1.Object, manager string) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	namespace := request.NamespaceValue(ctx)
	rest.WipeObjectMetaSystemFields(m)
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForResource(namespace, e.kind.GroupVersionResource), m); err != nil {
		return nil, err
	}
	if !c.manage(obj, m, manager) {
		return nil, errNotFast
	}
	user, _ := request.UserFrom(ctx)
	options := &metav1.CreateOptions{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "CreateOptions"}, FieldManager: manager}
	attributes := admission.NewAttributesRecord(obj, nil, e.kind.GVK(), namespace, m.GetName(), e.kind.GroupVersionResource, "", admission.Create, options, false, user)
	admit := e.store.s.cfg.Admission
	if mutating, ok := admit.(admission.MutationInterface); ok && mutating.Handles(admission.Create) {
		if err := mutating.Admit(ctx, attributes, e.scope); err != nil {
			return nil, err
		}
	}
	out, err := e.store.Create(ctx, obj, rest.AdmissionToValidateObjectFunc(admit, attributes, e.scope), options)
	if apierrors.IsRequestEntityTooLargeError(err) {
		return nil, errNotFast // nothing was written; the handlers try without managed fields
	}
	return out, err
}

// answerNew writes what was stored, if it still is what was just stored, else the object.
func (e *endpoint) answerNew(ctx context.Context, w http.ResponseWriter, mediaType string, obj runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	w.Header().Set("Content-Type", mediaType)
	if mediaType == protobufType {
		serializer, _ := runtime.SerializerInfoForMediaType(e.store.s.codecs.SupportedMediaTypes(), mediaType)
		w.WriteHeader(http.StatusCreated)
		_ = serializer.Serializer.Encode(obj, w) // the client is gone if it fails
		return nil
	}
	o := e.store.quorum(ctx).FSM().State().Get(e.store.key(ctx, m.GetName()))
	if o == nil || strconv.FormatUint(o.Revision, 10) != m.GetResourceVersion() {
		w.WriteHeader(http.StatusCreated)
		_ = writeJSON(w, obj)
		return nil
	}
	writeStored(w, http.StatusCreated, o)
	return nil
}

// writeStored answers with the bytes of o; errors mean that the client is gone.
func writeStored(w http.ResponseWriter, code int, o *fsm.Object) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(o.Data)+1))
	w.WriteHeader(code)
	if _, err := w.Write(o.Data); err == nil {
		_, _ = w.Write(newline)
	}
}
