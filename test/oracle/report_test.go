package oracle

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// difference is one thing that only one side says of an object.
type difference struct {
	what string // act and place: "create spec.ports[].port FieldValueInvalid", without the numbers of elements
	side string // who says it: "ours", "upstream", "both" for values that differ
	text string // in full, for the example
}

// tally counts what a comparison of one kind found.
type tally struct {
	objects, accepted, refused, explained, texts int
	panics                                       int // of Kubernetes
	found                                        map[string]*finding
	reasons                                      map[string]int
}

type finding struct {
	count   int
	example string
}

func newTally() *tally { return &tally{found: map[string]*finding{}, reasons: map[string]int{}} }

var numbers = regexp.MustCompile(`\[\d+\]`)

func unnumbered(path string) string { return numbers.ReplaceAllString(path, "[]") }

// note puts one difference where it belongs: explained, or found.
func (c *tally) note(kind string, from sample, d difference) {
	key := d.side + " only: " + d.what
	if d.side == "both" {
		key = "not equal: " + d.what
	}
	if reason := explanation(kind, key); reason != "" {
		c.explained++
		c.reasons[reason]++
		return
	}
	f := c.found[key]
	if f == nil {
		f = &finding{example: from.name + "\n      " + d.text}
		c.found[key] = f
	}
	f.count++
}

// report fails the test for everything found, and logs the counts.
func (c *tally) report(t *testing.T) {
	t.Helper()
	const most = 60
	keys := slices.SortedFunc(maps.Keys(c.found), func(a, b string) int {
		if n := c.found[b].count - c.found[a].count; n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	var s strings.Builder
	for i, key := range keys {
		if i == most {
			fmt.Fprintf(&s, "  … and %d more\n", len(keys)-most)
			break
		}
		fmt.Fprintf(&s, "%5d × %s\n      e.g. %s\n", c.found[key].count, key, c.found[key].example)
	}
	t.Logf("%6d objects: %d accepted by both, %d refused by both, %d differences explained, %d texts differ", c.objects, c.accepted, c.refused, c.explained, c.texts)
	if c.panics > 0 {
		t.Logf("%6d × Kubernetes panics", c.panics)
	}
	for _, reason := range slices.Sorted(maps.Keys(c.reasons)) {
		t.Logf("%6d × %s", c.reasons[reason], reason)
	}
	if len(keys) > 0 {
		t.Errorf("%d kinds of difference from Kubernetes:\n%s", len(keys), s.String())
	}
}
