package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report says of each chosen test what became of it.
type report struct {
	names   []string
	results map[string]result
	took    time.Duration
}

func (r report) passed() int {
	n := 0
	for _, name := range r.names {
		if r.results[name].Passed {
			n++
		}
	}
	return n
}

// pick returns the names for which keep holds.
func (r report) pick(keep func(res result, ran bool) bool) []string {
	var out []string
	for _, name := range r.names {
		if res, ran := r.results[name]; keep(res, ran) {
			out = append(out, name)
		}
	}
	return out
}

// text is the summary; with details also why tests failed, and what passed in which time, the slowest first.
func (r report) text(details bool) string {
	failed := r.pick(func(res result, ran bool) bool { return ran && !res.Passed })
	notRun := r.pick(func(_ result, ran bool) bool { return !ran })
	passed := r.pick(func(res result, _ bool) bool { return res.Passed })
	var b strings.Builder
	fmt.Fprintf(&b, "%d passed, %d failed, %d not run, of %d conformance tests, in %s\n\n", len(passed), len(failed), len(notRun),
		len(r.names), r.took.Round(time.Second))
	r.groups(&b)
	section(&b, "Failed", failed, func(name string) string {
		if !details {
			return ""
		}
		return "\n" + indent(r.results[name].Message)
	})
	section(&b, "Not run", notRun, func(string) string { return "" })
	if details {
		slices.SortStableFunc(passed, func(x, y string) int { return cmp.Compare(r.results[y].Took, r.results[x].Took) })
		section(&b, "Passed", passed, func(name string) string { return ", " + r.results[name].Took.Round(100*time.Millisecond).String() })
	}
	return b.String()
}

// groups prints a line for each special interest group.
func (r report) groups(b *strings.Builder) {
	type count struct{ passed, all int }
	groups := map[string]count{}
	for _, name := range r.names {
		group, _, _ := strings.Cut(name, " ")
		c := groups[group]
		c.all++
		if r.results[name].Passed {
			c.passed++
		}
		groups[group] = c
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tPASSED\tOF")
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		fmt.Fprintf(w, "%s\t%d\t%d\n", strings.Trim(g, "[]"), groups[g].passed, groups[g].all)
	}
	w.Flush()
}

func section(b *strings.Builder, title string, names []string, more func(string) string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, name := range names {
		fmt.Fprintf(b, "  %s%s\n", name, more(name))
	}
}

// indent keeps the beginning of a message, which may be a dump of objects.
func indent(message string) string {
	lines := strings.Split(strings.TrimSpace(message), "\n")
	if len(lines) > 20 {
		lines = append(lines[:20], "…")
	}
	for i, l := range lines {
		if len(l) > 300 {
			l = l[:300] + "…"
		}
		lines[i] = "      " + l
	}
	return strings.Join(lines, "\n")
}
