// Package tags knows what the comments of k8s.io/api say about types and their fields: +optional, +required, +listType,
// +listMapKey, +mapType, +structType and +default. They are read once, when somebody asks for an OpenAPI document.
package tags

import (
	_ "embed" // for the table
	"reflect"
	"strings"
	"sync"
)

//go:generate go run generate.go

//go:embed tags.txt
var text string

var table = sync.OnceValue(func() map[string]string {
	all := make(map[string]string, strings.Count(text, "\n"))
	for line := range strings.Lines(text) {
		name, tags, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[name] = tags
	}
	return all
})

// Of returns the tags of a type ("" for its field) or of one of its fields, by its JSON name: values by tag; a tag without a
// value has one, "".
func Of(t reflect.Type, field string) map[string][]string {
	name := t.PkgPath() + "." + t.Name()
	if field != "" {
		name += "." + field
	}
	found, ok := table()[name]
	if !ok {
		return nil
	}
	tags := map[string][]string{}
	for tag := range strings.FieldsSeq(found) {
		key, value, _ := strings.Cut(tag, "=")
		tags[key] = append(tags[key], value)
	}
	return tags
}
