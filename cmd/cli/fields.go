package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// fieldChange is one difference between two forms of an object.
type fieldChange struct {
	Path string `json:"path"` // spec.containers[web].image
	Old  any    `json:"old,omitempty"`
	New  any    `json:"new,omitempty"`
	// What was not there has no old, what is gone no new; null is a value.
	Added   bool `json:"added,omitempty"`
	Removed bool `json:"removed,omitempty"`
}

// noise is what the server writes at every change, or for itself.
var noise = []string{"metadata.managedFields", "metadata.resourceVersion", "metadata.generation"}

// fieldChanges lists what differs between two documents, in order of paths; elements of lists are told by their names, where they
// have one. Paths in hidden are left out.
func fieldChanges(before, after any, hidden []string) []fieldChange {
	d := differ{hidden: hidden}
	d.compare("", before, after)
	return d.changes
}

type differ struct {
	hidden  []string
	changes []fieldChange
}

func (d *differ) compare(path string, before, after any) {
	if slices.Contains(d.hidden, path) || reflect.DeepEqual(before, after) {
		return
	}
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok {
			d.maps(path, b, a)
			return
		}
	case []any:
		if a, ok := after.([]any); ok {
			d.lists(path, b, a)
			return
		}
	}
	d.changes = append(d.changes, fieldChange{Path: path, Old: before, New: after})
}

func (d *differ) maps(path string, before, after map[string]any) {
	for _, key := range allKeys(before, after) {
		at := key
		switch {
		case strings.ContainsAny(key, `./[]" `):
			at = fmt.Sprintf("%s[%q]", path, key)
		case path != "":
			at = path + "." + key
		}
		b, was := before[key]
		a, is := after[key]
		d.element(at, b, a, was, is)
	}
}

func allKeys(a, b map[string]any) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

func (d *differ) element(path string, before, after any, was, is bool) {
	switch {
	case slices.Contains(d.hidden, path):
	case was && is:
		d.compare(path, before, after)
	case was:
		d.changes = append(d.changes, fieldChange{Path: path, Old: before, Removed: true})
	case is:
		d.changes = append(d.changes, fieldChange{Path: path, New: after, Added: true})
	}
}

func (d *differ) lists(path string, before, after []any) {
	b, a := byName(before), byName(after)
	if b == nil || a == nil {
		for i := range max(len(before), len(after)) {
			d.element(fmt.Sprintf("%s[%d]", path, i), elementAt(before, i), elementAt(after, i), i < len(before), i < len(after))
		}
		return
	}
	if reflect.DeepEqual(a, b) { // and yet the lists differ
		d.changes = append(d.changes, fieldChange{Path: path + " (order)", Old: names(before), New: names(after)})
	}
	for _, key := range allKeys(b, a) {
		_, was := b[key]
		_, is := a[key]
		d.element(fmt.Sprintf("%s[%s]", path, key), b[key], a[key], was, is)
	}
}

func elementAt(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nil
}

// nameFields tell the elements of a list apart, as Kubernetes' lists are keyed.
var nameFields = []string{"name", "type", "key", "uid", "ip", "mountPath", "containerPort", "port"}

// byName indexes the elements of a list by the first field that names each of them differently; nil: none does.
func byName(list []any) map[string]any {
	for _, field := range nameFields {
		out := make(map[string]any, len(list))
		for _, e := range list {
			if m, ok := e.(map[string]any); ok {
				if name, ok := m[field]; ok {
					out[fmt.Sprint(name)] = e
				}
			}
		}
		if len(out) == len(list) {
			return out
		}
	}
	return nil
}

func names(list []any) (out []string) {
	for _, field := range nameFields {
		out = nil
		for _, e := range list {
			if m, ok := e.(map[string]any); ok && m[field] != nil {
				out = append(out, fmt.Sprint(m[field]))
			}
		}
		if len(out) == len(list) {
			return out
		}
	}
	return out
}

// leaves breaks a change that brings or takes a whole tree into its parts, unless it is short enough to read in one line.
func (c fieldChange) leaves(width int) []fieldChange {
	v := c.New
	if c.Removed {
		v = c.Old
	}
	if !c.Added && !c.Removed || len(valueText(v)) <= width {
		return []fieldChange{c}
	}
	d := differ{}
	switch v := v.(type) {
	case map[string]any:
		d.maps(c.Path, nil, v)
	case []any:
		d.lists(c.Path, nil, v)
	default:
		return []fieldChange{c}
	}
	var out []fieldChange
	for _, part := range d.changes {
		if c.Removed {
			part = fieldChange{Path: part.Path, Old: part.New, Removed: true}
		}
		out = append(out, part.leaves(width)...)
	}
	return out
}

// valueText is a value in one line: texts as they are where that is plain, everything else as JSON.
func valueText(v any) string {
	if s, ok := v.(string); ok && s != "" && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
