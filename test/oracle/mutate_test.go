package oracle

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	rows "mgr/resource"
)

// mostMutants are tried of each kind, chosen by a fixed seed; three times as many of pods and services.
const mostMutants = 800

var everything = flag.Bool("all", false, "try every mutation of every object")

// mutation changes one place of a document: a value is set, or the place is removed (value gone).
type mutation struct {
	at    []any // keys and indexes
	value any
}

// gone as the value of a mutation removes the place.
type gone struct{}

func (m mutation) String() string {
	text, _ := json.Marshal(m.value)
	if _, ok := m.value.(gone); ok {
		text = []byte("removed")
	}
	if len(text) > 60 {
		text = append(text[:57], "..."...)
	}
	return place(m.at) + "=" + string(text)
}

func place(at []any) string {
	var s strings.Builder
	for _, step := range at {
		if i, ok := step.(int); ok {
			fmt.Fprintf(&s, "[%d]", i)
		} else {
			fmt.Fprintf(&s, ".%v", step)
		}
	}
	return strings.TrimPrefix(s.String(), ".")
}

// walker collects the mutations of a document, guided by the Go type that it decodes into.
type walker struct{ found []mutation }

// mutations of a document of the given type, in a fixed order.
func mutations(doc map[string]any, typ reflect.Type) []mutation {
	var w walker
	w.structure(nil, doc, typ)
	return w.found
}

func (w *walker) try(at []any, values ...any) {
	for _, v := range values {
		w.found = append(w.found, mutation{slices.Clone(at), v})
	}
}

var (
	quantityType = reflect.TypeFor[resource.Quantity]()
	intOrString  = reflect.TypeFor[intstr.IntOrString]()
	timeType     = reflect.TypeFor[metav1.Time]()
	microType    = reflect.TypeFor[metav1.MicroTime]()
	rawType      = reflect.TypeFor[runtime.RawExtension]()
	fieldsType   = reflect.TypeFor[metav1.FieldsV1]()
)

// bad and merely different values by type of a leaf.
func leaf(typ reflect.Type) []any {
	switch typ {
	case quantityType:
		return []any{"-1", "0", "1500m", "1.5", "7", "9999999Ti"}
	case intOrString:
		return []any{int64(0), int64(-1), int64(70000), "http", "Not Valid!", "50%", "150%", ""}
	case timeType, microType:
		return []any{"2001-02-03T04:05:06.000000Z", "2101-02-03T04:05:06.000000Z"}
	case rawType, fieldsType:
		return nil
	}
	switch typ.Kind() {
	case reflect.String:
		return []any{"", "other", "Not Valid!", "-x", "a.b", "a/b", "../up", strings.Repeat("a", 64), strings.Repeat("a", 260), "10.1.2.3", "fd00::1"}
	case reflect.Int32, reflect.Int64, reflect.Int, reflect.Uint32, reflect.Int16, reflect.Uint64:
		return []any{int64(-1), int64(0), int64(1), int64(2), int64(301), int64(65536), int64(2147483647)}
	case reflect.Bool:
		return []any{true, false}
	case reflect.Slice: // bytes
		return []any{"", "eA=="}
	case reflect.Float64:
		return []any{-1.5, 0.0, 1.5}
	}
	return nil
}

func indirect(typ reflect.Type) reflect.Type {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ
}

func isLeaf(typ reflect.Type) bool {
	switch typ {
	case quantityType, intOrString, timeType, microType, rawType, fieldsType:
		return true
	}
	switch typ.Kind() {
	case reflect.Struct, reflect.Map, reflect.Interface:
		return false
	case reflect.Slice:
		return typ.Elem().Kind() == reflect.Uint8
	}
	return true
}

func (w *walker) any(at []any, v any, typ reflect.Type) {
	typ = indirect(typ)
	switch {
	case isLeaf(typ):
		for _, value := range leaf(typ) {
			if !reflect.DeepEqual(value, v) {
				w.try(at, value)
			}
		}
	case typ.Kind() == reflect.Struct:
		if m, ok := v.(map[string]any); ok {
			w.structure(at, m, typ)
		}
	case typ.Kind() == reflect.Map:
		if m, ok := v.(map[string]any); ok {
			w.mapping(at, m, typ)
		}
	case typ.Kind() == reflect.Slice:
		if l, ok := v.([]any); ok {
			w.list(at, l, typ)
		}
	}
}

// members are the JSON fields of a struct with their types; those of embedded structs too.
func members(typ reflect.Type) map[string]reflect.Type {
	all := map[string]reflect.Type{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
			maps.Copy(all, members(indirect(f.Type)))
		default:
			all[name] = f.Type
		}
	}
	return all
}

func (w *walker) structure(at []any, doc map[string]any, typ reflect.Type) {
	fields := members(typ)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if len(at) == 0 && (name == "apiVersion" || name == "kind") || name == "managedFields" {
			continue
		}
		here := append(slices.Clone(at), name)
		if v, ok := doc[name]; ok {
			w.try(here, gone{})
			w.any(here, v, fields[name])
			continue
		}
		w.absent(here, indirect(fields[name]))
	}
}

// absent tries values in a field that the document leaves out.
func (w *walker) absent(at []any, typ reflect.Type) {
	switch {
	case isLeaf(typ):
		for _, v := range leaf(typ) {
			if s, ok := v.(string); !ok || len(s) < 20 {
				w.try(at, v)
			}
		}
	case typ.Kind() == reflect.Struct:
		w.try(at, map[string]any{})
		if len(at) < 9 {
			w.structure(at, map[string]any{}, typ)
		}
	case typ.Kind() == reflect.Map:
		if element := indirect(typ.Elem()); isLeaf(element) {
			for _, v := range leaf(element)[:min(2, len(leaf(element)))] {
				w.try(at, map[string]any{"Not Valid!": v}, map[string]any{"other": v})
			}
		}
	case typ.Kind() == reflect.Slice:
		element := indirect(typ.Elem())
		if !isLeaf(element) {
			w.try(at, []any{map[string]any{}})
			return
		}
		for _, v := range leaf(element) {
			w.try(at, []any{v})
		}
	}
}

func (w *walker) mapping(at []any, doc map[string]any, typ reflect.Type) {
	w.try(at, map[string]any{})
	keys := slices.Sorted(maps.Keys(doc))
	for i, key := range keys {
		here := append(slices.Clone(at), key)
		w.try(here, gone{})
		w.any(here, doc[key], typ.Elem())
		if i == 0 {
			for _, other := range []string{"Not Valid!", "other", "example.com/other", "kubernetes.io/other", ""} {
				w.try(append(slices.Clone(at), other), doc[key])
			}
		}
	}
}

func (w *walker) list(at []any, doc []any, typ reflect.Type) {
	element := indirect(typ.Elem())
	w.try(at, []any{})
	for i := range doc {
		w.any(append(slices.Clone(at), i), doc[i], element)
	}
	if len(doc) == 0 {
		return
	}
	w.try(at, append(slices.Clone(doc), doc[0])) // a duplicate
	w.try(at, doc[1:])
	if len(doc) > 1 {
		back := slices.Clone(doc)
		slices.Reverse(back)
		w.try(at, back)
	}
	if element.Kind() == reflect.Struct && !isLeaf(element) {
		w.try(at, append(slices.Clone(doc), map[string]any{}))
	} else {
		w.try(at, append(slices.Clone(doc), ""))
	}
}

// apply returns the document with the mutation made; the original stays as it is, parts of it are shared.
func apply(v any, at []any, value any) any {
	if len(at) == 0 {
		return value
	}
	switch key := at[0].(type) {
	case string:
		m := map[string]any{}
		if old, ok := v.(map[string]any); ok {
			m = maps.Clone(old)
		}
		if _, ok := value.(gone); ok && len(at) == 1 {
			delete(m, key)
			return m
		}
		m[key] = apply(m[key], at[1:], value)
		return m
	case int:
		l, _ := v.([]any)
		if key >= len(l) {
			return v
		}
		l = slices.Clone(l)
		l[key] = apply(l[key], at[1:], value)
		return l
	}
	return v
}

// mutants are the objects that one mutation of a valid one makes, and some that two make, chosen by a fixed seed. Of too
// many, each of the valid ones gets its share.
func mutants(k *rows.Kind, valid ...sample) []sample {
	possible, total := make([][]mutation, len(valid)), 0
	for i, from := range valid {
		possible[i] = mutations(from.doc, reflect.TypeOf(from.obj).Elem())
		total += len(possible[i])
	}
	most := mostMutants
	if k.Group == "" && (k.Kind == "Pod" || k.Kind == "Service") {
		most *= 3
	}
	r := rand.New(rand.NewPCG(1, uint64(total)))
	var made []sample
	for i, from := range valid {
		all := possible[i]
		pairs := len(all) / 4
		if total > most && !*everything {
			share := len(all) * most / total
			r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			all, pairs = all[:share], share/4
		}
		for _, m := range all {
			made = mutate(made, k, from, m)
		}
		for range pairs {
			made = mutate(made, k, from, all[r.IntN(len(all))], all[r.IntN(len(all))])
		}
	}
	return made
}

func mutate(made []sample, k *rows.Kind, from sample, by ...mutation) []sample {
	var doc any = from.doc
	var names []string
	for _, m := range by {
		doc = apply(doc, m.at, m.value)
		names = append(names, m.String())
	}
	s := decode(k, from.name+" "+strings.Join(names, " and "), doc.(map[string]any))
	if s == nil {
		return made
	}
	s.from = &from
	return append(made, *s)
}
