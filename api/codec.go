package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	jsonv2 "github.com/go-json-experiment/json"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	kjson "sigs.k8s.io/json"

	"mgr/fsm"
	"mgr/resource"
)

// versionKey begins metadata.resourceVersion in stored bytes. Nothing before it in an object can hold these bytes: only
// kind, apiVersion and plain strings of the metadata come first, and in those a quote is escaped.
var versionKey = []byte(`"resourceVersion":"`)

// encode makes the bytes that the state machine stores: JSON of the served type with an empty resourceVersion, and the
// offset at which apply inserts it. obj's TypeMeta must be set; its resourceVersion is overwritten.
func encode(obj runtime.Object) (data []byte, at uint32, err error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the metadata of %T: %w", obj, err)
	}
	m.SetResourceVersion("0")
	data, err = json.Marshal(obj)
	if err != nil {
		return nil, 0, fmt.Errorf("encoding %s %q: %w", obj.GetObjectKind().GroupVersionKind().Kind, m.GetName(), err)
	}
	i := bytes.Index(data, versionKey)
	if i < 0 {
		return nil, 0, fmt.Errorf("encoding %s %q: no resourceVersion in its JSON", obj.GetObjectKind().GroupVersionKind().Kind, m.GetName())
	}
	i += len(versionKey)
	return append(data[:i], data[i+1:]...), uint32(i), nil
}

// withRevision returns stored bytes with another resourceVersion, in new memory.
func withRevision(data []byte, revision uint64) []byte {
	i := bytes.Index(data, versionKey)
	if i < 0 {
		return data
	}
	i += len(versionKey)
	end := i + bytes.IndexByte(data[i:], '"')
	out := make([]byte, 0, len(data)+8)
	out = append(out, data[:i]...)
	out = strconv.AppendUint(out, revision, 10)
	return append(out, data[end:]...)
}

// decoded is what fsm.Object.Decoded keeps beside the bytes: the typed object and what selectors look at. It is shared
// by all readers and never changed.
type decoded struct {
	obj    runtime.Object
	labels labels.Set
	fields fields.Set
}

// decodedOf returns the shared decoded form of o, which is of the storing row k.
func decodedOf(k *resource.Kind, o *fsm.Object) (*decoded, error) {
	v, err := o.Decoded(func(o *fsm.Object) (any, error) {
		obj := k.New()
		if err := jsonv2.Unmarshal(o.Data, obj); err != nil {
			// The older decoder forgives more; what it takes was stored by it.
			obj = k.New()
			if err := kjson.UnmarshalCaseSensitivePreserveInts(o.Data, obj); err != nil {
				return nil, fmt.Errorf("decoding stored %s %s/%s: %w", o.Key.Resource, o.Key.Namespace, o.Key.Name, err)
			}
		}
		return newDecoded(k, obj)
	})
	if err != nil {
		return nil, err
	}
	return v.(*decoded), nil
}

func newDecoded(k *resource.Kind, obj runtime.Object) (*decoded, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	d := &decoded{obj: obj, labels: m.GetLabels()}
	if k.Fields != nil {
		d.fields = k.Fields(obj)
	}
	if d.fields == nil {
		d.fields = fields.Set{}
	}
	d.fields["metadata.name"] = m.GetName()
	if k.Namespaced {
		d.fields["metadata.namespace"] = m.GetNamespace()
	}
	return d, nil
}

// remember gives a stored object the decoded form that its writer already holds, so that nobody decodes it on this peer.
// obj must not be changed any more.
func remember(k *resource.Kind, o *fsm.Object, obj runtime.Object) (runtime.Object, error) {
	v, err := o.Decoded(func(o *fsm.Object) (any, error) { return decodedAt(k, obj, o.Revision) })
	if err != nil {
		return nil, err
	}
	return v.(*decoded).obj, nil
}

// decodedAt is the decoded form of an object that is stored at revision.
func decodedAt(k *resource.Kind, obj runtime.Object, revision uint64) (*decoded, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(strconv.FormatUint(revision, 10))
	return newDecoded(k, obj)
}

// form is an object on its way into the state: this peer's informers see it before its writer hears that it is stored. The writer
// must not touch it any more.
type form struct {
	kind *resource.Kind
	obj  runtime.Object
}

// At implements fsm.Form.
func (f form) At(revision uint64) any {
	d, err := decodedAt(f.kind, f.obj, revision)
	if err != nil {
		return nil // whoever wants it decodes, and can say what is wrong
	}
	return d
}

// codecs is the serializer of the handlers: no conversion between versions, defaults after decoding, and no write to
// objects that already carry their kind (they may be shared).
type codecs struct {
	serializer.CodecFactory
	defaulter runtime.ObjectDefaulter
}

func (c codecs) EncoderForVersion(e runtime.Encoder, gv runtime.GroupVersioner) runtime.Encoder {
	return runtime.WithVersionEncoder{Version: gv, Encoder: e, ObjectTyper: resource.Scheme}
}

func (c codecs) DecoderToVersion(d runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return &defaultingDecoder{Decoder: d, defaulter: c.defaulter}
}

// defaultingDecoder decodes into exactly the wanted type and fills in what the user left out.
type defaultingDecoder struct {
	runtime.Decoder
	defaulter runtime.ObjectDefaulter
}

func (d *defaultingDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := d.Decoder.Decode(data, defaults, into)
	if obj == nil || (err != nil && !runtime.IsStrictDecodingError(err)) {
		return obj, gvk, err
	}
	if into != nil && obj != into && !olderEviction(obj, into) {
		return nil, gvk, fmt.Errorf("converting (%T) to (%T): unknown conversion", obj, into)
	}
	if into != nil {
		obj = into
	}
	d.defaulter.Default(obj)
	return obj, gvk, err
}

// olderEviction takes over an eviction as clients sent it before v1.22; false: obj is something else.
func olderEviction(obj, into runtime.Object) bool {
	old, ok := obj.(*policyv1beta1.Eviction)
	e, wanted := into.(*policyv1.Eviction)
	if !ok || !wanted {
		return false
	}
	e.ObjectMeta, e.DeleteOptions = old.ObjectMeta, old.DeleteOptions
	return true
}

// rowDefaulter applies the defaults of one row.
type rowDefaulter struct{ kind *resource.Kind }

func (r rowDefaulter) Default(obj runtime.Object) {
	if r.kind.Default != nil && obj != nil {
		r.kind.Default(obj)
	}
}

// noDefaults is for bodies that are not the row's own object.
type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

// convertor converts between versions that are stored as one, and knows the row's selectable fields.
type convertor struct {
	runtime.ObjectConvertor
	known map[string]bool
}

func newConvertor(k *resource.Kind) convertor {
	known := map[string]bool{"metadata.name": true}
	if k.Namespaced {
		known["metadata.namespace"] = true
	}
	if k.Fields != nil {
		for name := range k.Fields(k.New()) {
			known[name] = true
		}
	}
	return convertor{ObjectConvertor: runtime.UnsafeObjectConvertor(resource.Scheme), known: known}
}

// ConvertToVersion goes by way of the stored version.
func (c convertor) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	from, err := kindOf(in)
	if err != nil {
		return c.ObjectConvertor.ConvertToVersion(in, target)
	}
	to, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{from})
	a, b := resource.LookupKind(from), resource.LookupKind(to)
	if !ok || a == b || a == nil || b == nil || a.Storage() != b.Storage() {
		return c.ObjectConvertor.ConvertToVersion(in, target)
	}
	if a.ToStored != nil {
		if in, err = a.ToStored(in); err != nil {
			return nil, fmt.Errorf("converting %s to %s: %w", from, to, err)
		}
	}
	if b.FromStored != nil {
		if in, err = b.FromStored(in); err != nil {
			return nil, fmt.Errorf("converting %s to %s: %w", from, to, err)
		}
	}
	return in, nil
}

func (c convertor) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	if !c.known[label] {
		return "", "", fmt.Errorf("field label not supported: %s", label)
	}
	return label, value, nil
}

// setKind writes the row's kind into obj, which must not be shared.
func setKind(obj runtime.Object, gvk schema.GroupVersionKind) {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
}

// kindOf is the kind under which the scheme knows obj.
func kindOf(obj runtime.Object) (schema.GroupVersionKind, error) {
	kinds, _, err := resource.Scheme.ObjectKinds(obj)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return kinds[0], nil
}

// writeJSON writes v as one JSON value and a newline.
func writeJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// now is the time as it is stored: whole seconds, so that an object equals itself after a round trip through JSON.
func now() metav1.Time {
	t := metav1.Now()
	return t.Rfc3339Copy()
}

func writeIndented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
