package cli

import (
	"fmt"
	"strings"
	"testing"
)

func TestFieldChanges(t *testing.T) {
	long := strings.Repeat("x", 60)
	for name, c := range map[string]struct{ before, after, want string }{
		"equal":           {`{"a":1}`, `{"a":1}`, ""},
		"value":           {`{"a":{"b":1}}`, `{"a":{"b":2}}`, "~ a.b 1 2"},
		"large number":    {`{"a":1234567890123}`, `{"a":1234567890124}`, "~ a 1234567890123 1234567890124"},
		"null is a value": {`{"a":null}`, `{"a":0}`, "~ a null 0"},
		"come and gone":   {`{"a":1}`, `{"b":2}`, "- a 1; + b 2"},
		"other type":      {`{"a":{"b":1}}`, `{"a":[1]}`, `~ a {"b":1} [1]`},
		"odd key":         {`{"m":{"a.b/c":"1"}}`, `{"m":{"a.b/c":"2"}}`, `~ m["a.b/c"] 1 2`},
		"by name": {`{"l":[{"name":"a","v":1},{"name":"b","v":1}]}`, `{"l":[{"name":"b","v":2},{"name":"c"}]}`,
			`- l[a] {"name":"a","v":1}; ~ l[b].v 1 2; + l[c] {"name":"c"}`},
		"order":     {`{"l":[{"name":"a"},{"name":"b"}]}`, `{"l":[{"name":"b"},{"name":"a"}]}`, `~ l (order) ["a","b"] ["b","a"]`},
		"by index":  {`{"l":["a","b"]}`, `{"l":["a","c","d"]}`, "~ l[1] b c; + l[2] d"},
		"emptied":   {`{"l":["a"]}`, `{"l":[]}`, "- l[0] a"},
		"a new map": {`{}`, `{"m":{"k":"v"}}`, `+ m {"k":"v"}`},
		"a long map": {`{}`, `{"m":{"k":"v","l":{"long":"` + long + `"}}}`,
			"+ m.k v; + m.l.long " + long},
		"a long list gone": {`{"l":[{"type":"A","v":"` + long + `"}]}`, `{}`, "- l[A].type A; - l[A].v " + long},
		"noise":            {`{"metadata":{"resourceVersion":"1","managedFields":[1],"generation":1}}`, `{"metadata":{"resourceVersion":"2","generation":2}}`, ""},
		"odd text":         {`{"a":"x\ny"}`, `{"a":""}`, `~ a "x\ny" ""`},
	} {
		before, err := document([]byte(c.before))
		if err != nil {
			t.Fatal(err)
		}
		after, err := document([]byte(c.after))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, f := range fieldChanges(before, after, noise) {
			for _, leaf := range f.leaves(40) {
				switch {
				case leaf.Added:
					lines = append(lines, fmt.Sprintf("+ %s %s", leaf.Path, valueText(leaf.New)))
				case leaf.Removed:
					lines = append(lines, fmt.Sprintf("- %s %s", leaf.Path, valueText(leaf.Old)))
				default:
					lines = append(lines, fmt.Sprintf("~ %s %s %s", leaf.Path, valueText(leaf.Old), valueText(leaf.New)))
				}
			}
		}
		if got := strings.Join(lines, "; "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
