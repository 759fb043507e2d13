package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"mgr/api"
)

// lineWidth is how many columns a line of output has at most, but for -o wide.
const lineWidth = 100

// historyPrinter writes a history as a table with the differences below each line.
type historyPrinter struct {
	w      io.Writer
	diff   string
	wide   bool
	colour bool
	now    time.Time
}

func newHistoryPrinter(w io.Writer, f *historyFlags) *historyPrinter {
	return &historyPrinter{w: w, diff: f.diff, wide: f.output == "wide", colour: isTerminal(w), now: time.Now()}
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
)

func (p *historyPrinter) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (p *historyPrinter) print(h *toldHistory, r ref) {
	p.beginning(h, r)
	if len(h.Changes) == 0 {
		return
	}
	rows := [][]string{p.head(r)}
	for i := range h.Changes {
		rows = append(rows, p.row(&h.Changes[i], h, r))
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	if !p.wide {
		p.narrow(widths)
	}
	fmt.Fprintln(p.w, p.line(rows[0], widths))
	for i, row := range rows[1:] {
		line := p.line(row, widths)
		switch h.Changes[i].Type {
		case "ADDED":
			line = p.paint(green, line)
		case "DELETED":
			line = p.paint(red, line)
		default:
			line = p.paint(bold, line)
		}
		fmt.Fprintln(p.w, line)
		p.difference(&h.Changes[i])
	}
}

// beginning says what is not shown, and why.
func (p *historyPrinter) beginning(h *toldHistory, r ref) {
	what := r.Resource.GroupResource().String()
	if r.name != "" {
		what = r.String()
	}
	switch {
	case h.Left > 0:
		fmt.Fprintf(p.w, "%d older changes are not shown: --limit 0 and no --since show all.\n", h.Left)
	case len(h.Changes) == 0:
		fmt.Fprintf(p.w, "No changes of %s are known: history begins at %s.\n", what, h.Begins)
	case h.Begins.Revision > 0 && (r.name == "" || h.Changes[0].Type != "ADDED"):
		fmt.Fprintf(p.w, "History begins at %s.\n", h.Begins)
	}
}

func (p *historyPrinter) head(r ref) []string {
	row := []string{"REVISION", "AGE"}
	if p.wide {
		row[1] = "TIME"
	}
	if r.name == "" {
		if r.namespace == "" && r.Scope.Name() == "namespace" {
			row = append(row, "NAMESPACE")
		}
		row = append(row, "NAME")
	}
	return append(row, "CHANGE", "BY", "REQUEST")
}

var changeWords = map[string]string{"ADDED": "created", "MODIFIED": "changed", "DELETED": "deleted"}

func (p *historyPrinter) row(c *toldChange, h *toldHistory, r ref) []string {
	when := "-"
	if c.Time != nil {
		when = duration.HumanDuration(p.now.Sub(*c.Time))
		if p.wide {
			when = c.Time.Format("2006-01-02T15:04:05.000Z07:00")
		}
	}
	row := []string{fmt.Sprint(c.Revision), when}
	if r.name == "" {
		if r.namespace == "" && r.Scope.Name() == "namespace" {
			row = append(row, c.Namespace)
		}
		row = append(row, c.Name)
	}
	how := c.Cause
	if !p.wide {
		how = request(&c.Change, &h.History)
	}
	return append(row, changeWords[c.Type], c.Actor, how)
}

// narrow cuts the widest columns until a line fits.
func (p *historyPrinter) narrow(widths []int) {
	for {
		total := 2 * (len(widths) - 1)
		widest := 0
		for i, w := range widths {
			total += w
			if w > widths[widest] {
				widest = i
			}
		}
		if total <= lineWidth || widths[widest] <= 8 {
			return
		}
		widths[widest]--
	}
}

func (p *historyPrinter) line(row []string, widths []int) string {
	var b strings.Builder
	for i, cell := range row {
		cell = cut(cell, widths[i])
		b.WriteString(cell)
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// cut shortens a text to width columns.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width-1, 0)]) + "…"
}

func (p *historyPrinter) difference(c *toldChange) {
	switch {
	case c.Type != "MODIFIED" || p.diff == "none":
	case p.diff == "unified":
		for line := range strings.Lines(c.unified) {
			line = strings.TrimRight(line, "\n")
			switch line[:1] {
			case "+":
				line = p.paint(green, line)
			case "-":
				line = p.paint(red, line)
			}
			fmt.Fprintln(p.w, "    "+line)
		}
	default:
		const indent = 4
		room := lineWidth - indent - 2
		for _, f := range c.Fields {
			for _, leaf := range f.leaves(room / 2) {
				p.field(leaf, room)
			}
		}
		if len(c.Fields) == 0 {
			fmt.Fprintln(p.w, "    (only what the server keeps for itself)")
		}
	}
}

// field writes one difference in one line.
func (p *historyPrinter) field(f fieldChange, room int) {
	if p.wide {
		room = 1 << 20
	}
	old, now := valueText(f.Old), valueText(f.New)
	path := cut(f.Path, max(room*6/10, room-5-utf8.RuneCountInString(old)-utf8.RuneCountInString(now)))
	room -= utf8.RuneCountInString(path) + 2
	switch {
	case f.Added:
		fmt.Fprintln(p.w, p.paint(green, "    + "+path+": "+cut(now, room)))
	case f.Removed:
		fmt.Fprintln(p.w, p.paint(red, "    - "+path+": "+cut(old, room)))
	default:
		room -= 3 // for the arrow
		if n := utf8.RuneCountInString(now); n <= room/2 {
			old = cut(old, room-n)
		} else {
			old = cut(old, max(room/2, room-n))
		}
		fmt.Fprintln(p.w, p.paint(yellow, "    ~ "+path+": "+old+" → "+cut(now, room-utf8.RuneCountInString(old))))
	}
}

// unified is the difference of two documents as YAML, as diff -u shows it, without its head.
func unified(before, after map[string]any, hidden []string) (string, error) {
	var texts [2][]string
	for i, doc := range []map[string]any{before, after} {
		for _, path := range hidden {
			remove(doc, strings.Split(path, "."))
		}
		b, err := yaml.Marshal(doc)
		if err != nil {
			return "", err
		}
		texts[i] = slices.Collect(strings.Lines(string(b)))
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{A: texts[0], B: texts[1], Context: 3})
}

func remove(doc map[string]any, path []string) {
	if len(path) == 1 {
		delete(doc, path[0])
		return
	}
	if next, ok := doc[path[0]].(map[string]any); ok {
		remove(next, path[1:])
	}
}

// since is for messages about a change.
func since(c *api.Change) string {
	if c.Time == nil {
		return "at revision " + fmt.Sprint(c.Revision)
	}
	return duration.HumanDuration(time.Since(*c.Time)) + " ago"
}
