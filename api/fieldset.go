package api

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// fieldSet writes the fields of a new object as managedFields name them (KEP-555, fieldsV1): what the library finds by comparing
// the object with an empty one, in one walk and without building either as a generic value. Whatever is rare sets unsure, and
// the library does it.
type fieldSet struct {
	schema   *schema.Schema
	noStatus bool // the path ignores status: it has a path of its own
	out      []byte
	unsure   bool
}

// bookkeeping are the fields that nobody manages.
func bookkeeping(parent, name string) bool {
	switch parent {
	case "":
		return name == "apiVersion" || name == "kind"
	case "metadata":
		switch name {
		case "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion":
			return true
		}
	}
	return false
}

// root writes the set of obj, a pointer to an object of the type named; false: the library must do it.
func (f *fieldSet) root(obj any, named schema.TypeRef) ([]byte, bool) {
	atom, ok := f.schema.Resolve(named)
	v := reflect.ValueOf(obj)
	if !ok || atom.Map == nil || v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, false
	}
	f.out = append(f.out, '{')
	f.fields(v.Elem(), atom.Map, "", true)
	f.out = append(f.out, '}')
	return f.out, !f.unsure && len(f.out) > 2
}

// element writes one member with its children under the name that label appends. inEmpty says that an empty object has the
// field, too, with the zero value: then it is a member only where it differs.
func (f *fieldSet) element(v reflect.Value, ref schema.TypeRef, self string, inEmpty bool, label func([]byte) []byte) {
	begin := len(f.out)
	if last := f.out[begin-1]; last != '{' {
		f.out = append(f.out, ',')
	}
	f.out = label(f.out)
	f.out = append(f.out, ':', '{')
	inner := len(f.out)
	// A container that an empty object lacks is a member itself; the mark is taken back where it has no children.
	const mark = `".":{}`
	if !inEmpty {
		f.out = append(f.out, mark...)
	}
	leaf := f.value(v, ref, self, inEmpty)
	switch {
	case leaf == absent, inEmpty && leaf == container && len(f.out) == inner:
		f.out = f.out[:begin]
		return
	case leaf == member:
		f.out = f.out[:inner]
	}
	f.out = append(f.out, '}')
}

// shape is what a value turned out to be.
type shape int

const (
	absent    shape = iota // the same as in an empty object
	member                 // a leaf
	container              // its children are written
)

func (f *fieldSet) value(v reflect.Value, ref schema.TypeRef, self string, inEmpty bool) shape {
	atom, ok := f.schema.Resolve(ref)
	set := false // a pointer is nil in an empty object
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return leafOf(inEmpty)
		}
		v, set = v.Elem(), true
	}
	inEmpty = inEmpty && !set
	switch {
	case !ok || v.Kind() == reflect.Interface:
		f.unsure = true
		return absent
	case value.TypeReflectEntryOf(v.Type()).CanConvertToUnstructured(), atom.Map == nil && atom.List == nil:
		return f.leaf(v, atom, inEmpty)
	}
	switch v.Kind() {
	case reflect.Struct:
		if atom.Map != nil && atom.Map.ElementRelationship != schema.Atomic {
			before := len(f.out)
			f.fields(v, atom.Map, self, inEmpty)
			if len(f.out) == before {
				return leafOf(inEmpty)
			}
			return container
		}
	case reflect.Map:
		if atom.Map != nil && atom.Map.ElementRelationship != schema.Atomic && v.Len() > 0 {
			f.entries(v, atom.Map)
			return container
		}
	case reflect.Slice:
		if atom.List != nil && atom.List.ElementRelationship != schema.Atomic && v.Len() > 0 {
			f.items(v, atom.List)
			return container
		}
	}
	return f.leaf(v, atom, inEmpty)
}

func leafOf(inEmpty bool) shape {
	if inEmpty {
		return absent
	}
	return member
}

// leaf is a value without parts of its own. Types that write themselves may look alike without being equal.
func (f *fieldSet) leaf(v reflect.Value, atom schema.Atom, inEmpty bool) shape {
	if atom.Scalar == nil && v.Kind() != reflect.Struct && v.Kind() != reflect.Map && v.Kind() != reflect.Slice {
		f.unsure = true // the library reports it
	}
	if !inEmpty {
		return member
	}
	// A time is null in an empty object and never looks like null otherwise.
	isTime := v.Type() == reflect.TypeFor[metav1.Time]() || v.Type() == reflect.TypeFor[metav1.MicroTime]()
	switch {
	case v.IsZero(), isTime && isZeroTime(v):
		return absent
	case v.Kind() == reflect.Struct && !isTime && !hasMore(v), (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.Len() == 0:
		f.unsure = true
	}
	return member
}

// hasMore says whether v, a struct, certainly has a field in JSON that its zero value has not.
func hasMore(v reflect.Value) bool {
	of := value.TypeReflectEntryOf(v.Type())
	if of.CanConvertToUnstructured() {
		return false
	}
	for _, field := range of.OrderedFields() {
		if fv := field.GetFrom(v); !field.CanOmit(fv) && field.CanOmit(reflect.Zero(fv.Type())) {
			return true
		}
	}
	return false
}

func isZeroTime(v reflect.Value) bool {
	switch t := v.Interface().(type) {
	case metav1.Time:
		return t.IsZero()
	case metav1.MicroTime:
		return t.IsZero()
	}
	return false
}

func (f *fieldSet) fields(v reflect.Value, m *schema.Map, self string, inEmpty bool) {
	for _, field := range value.TypeReflectEntryOf(v.Type()).OrderedFields() {
		fv := field.GetFrom(v)
		if field.CanOmit(fv) || bookkeeping(self, field.JsonName) || self == "" && inEmpty && f.noStatus && field.JsonName == "status" {
			continue
		}
		ref := m.ElementType
		if sf, ok := m.FindField(field.JsonName); ok {
			ref = sf.Type
		}
		below := "."
		if self == "" && inEmpty {
			below = field.JsonName
		}
		f.element(fv, ref, below, inEmpty && !field.CanOmit(reflect.Zero(fv.Type())), func(b []byte) []byte {
			b = append(b, `"f:`...)
			b = append(b, field.JsonName...)
			return append(b, '"')
		})
	}
}

func (f *fieldSet) entries(v reflect.Value, m *schema.Map) {
	if v.Type().Key().Kind() != reflect.String {
		f.unsure = true
		return
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
	for _, k := range keys {
		ref := m.ElementType
		if sf, ok := m.FindField(k.String()); ok {
			ref = sf.Type
		}
		f.element(v.MapIndex(k), ref, ".", false, func(b []byte) []byte {
			b = append(b, `"f:`...)
			return append(f.plain(b, k.String()), '"')
		})
	}
}

// plain appends text that JSON does not escape.
func (f *fieldSet) plain(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			f.unsure = true
		}
	}
	return append(b, text...)
}

// item is an element of a list whose elements are told apart by keys, or by themselves (one part without a name).
type item struct {
	v     reflect.Value
	parts []part
}

type part struct {
	name string
	v    reflect.Value // a string, bool or integer
}

func (f *fieldSet) items(v reflect.Value, l *schema.List) {
	all := make([]item, v.Len())
	for i := range all {
		all[i] = item{v: v.Index(i), parts: f.parts(v.Index(i), l)}
	}
	if f.unsure {
		return
	}
	slices.SortStableFunc(all, f.compare)
	for i, one := range all {
		if i > 0 && f.compare(all[i-1], one) == 0 {
			f.unsure = true // duplicates have rules of their own
			return
		}
		f.element(one.v, l.ElementType, ".", false, func(b []byte) []byte { return f.label(b, one.parts, len(l.Keys) > 0) })
	}
}

func (f *fieldSet) parts(v reflect.Value, l *schema.List) []part {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if len(l.Keys) == 0 {
		return []part{{v: f.simple(v)}}
	}
	if v.Kind() != reflect.Struct {
		f.unsure = true
		return nil
	}
	parts := make([]part, 0, len(l.Keys))
	fields := value.TypeReflectEntryOf(v.Type()).Fields()
	for _, key := range l.Keys {
		field := fields[key]
		if field == nil {
			f.unsure = true
			return nil
		}
		kv := field.GetFrom(v)
		if field.CanOmit(kv) {
			f.unsure = true // a default of the schema, or an item that lacks a part of its key
			return nil
		}
		parts = append(parts, part{key, f.simple(kv)})
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.name, b.name) })
	return parts
}

func (f *fieldSet) simple(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.String, v.Kind() == reflect.Bool, v.CanInt():
		if !value.TypeReflectEntryOf(v.Type()).CanConvertToUnstructured() {
			return v
		}
	}
	f.unsure = true
	return v
}

func (f *fieldSet) compare(a, b item) int {
	for i := range min(len(a.parts), len(b.parts)) {
		x, y := a.parts[i].v, b.parts[i].v
		c := 0
		switch {
		case x.Kind() != y.Kind():
			f.unsure = true
		case x.Kind() == reflect.String:
			c = cmp.Compare(x.String(), y.String())
		case x.CanInt():
			c = cmp.Compare(x.Int(), y.Int())
		case x.Bool() != y.Bool():
			c = 1
			if y.Bool() {
				c = -1
			}
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// label writes k:{"name":"a"} or v:"a", quoted once more as the name of a field.
func (f *fieldSet) label(b []byte, parts []part, keyed bool) []byte {
	if !keyed {
		b = append(b, `"v:`...)
		return append(f.scalar(b, parts[0].v), '"')
	}
	b = append(b, `"k:{`...)
	for i, p := range parts {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `\"`...)
		b = append(b, p.name...)
		b = append(b, `\":`...)
		b = f.scalar(b, p.v)
	}
	return append(b, `}"`...)
}

func (f *fieldSet) scalar(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.String:
		b = append(b, `\"`...)
		return append(f.plain(b, v.String()), `\"`...)
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool())
	}
	return strconv.AppendInt(b, v.Int(), 10)
}
