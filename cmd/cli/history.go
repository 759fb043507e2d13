package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/client-go/kubernetes"

	"mgr/api"
)

// historyFlags are the flags of mgr history.
type historyFlags struct {
	output, diff, since, selector string
	limit                         int
	all, secrets, managed         bool
}

func newHistory(c *env) *cobra.Command {
	f := &historyFlags{}
	cmd := &cobra.Command{
		Use:   "history KIND/NAME | KIND [NAME]",
		Short: "Show what changed, when, and by whom",
		Long: `Show the changes of an object, or of all objects of a kind: revision, age, who asked for it, by what request, and each
field that changed. Objects that were deleted have a history, too.

History is bounded: it reaches back some thousand changes of a kind. A revision shown here can be read with
'mgr get KIND/NAME --at-revision', and what was deleted be brought back with 'mgr undelete'. The values of secrets are
hidden unless --show-secrets is given.`,
		Example: `  mgr history deployment/web
  mgr history configmap/settings --diff=unified
  mgr history pods --since 10m -n shop
  mgr history svc -A --diff=none -o wide`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), c, args) },
	}
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "json, yaml, or wide (absolute times and whole requests)")
	cmd.Flags().StringVar(&f.diff, "diff", "fields", "how to show what changed: fields, unified, or none")
	cmd.Flags().StringVar(&f.since, "since", "", "only changes since so long ago (10m, 2h) or since a time (2026-11-23T10:00:00Z)")
	cmd.Flags().IntVar(&f.limit, "limit", 50, "show so many of the latest changes; 0: all that are known")
	cmd.Flags().StringVarP(&f.selector, "selector", "l", "", "only objects with these labels, such as app=web; for KIND alone")
	cmd.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "objects of all namespaces; for KIND alone")
	cmd.Flags().BoolVar(&f.secrets, "show-secrets", false, "show the values of secrets")
	cmd.Flags().BoolVar(&f.managed, "show-managed-fields", false, "also show what the server writes at every change: managedFields, resourceVersion, generation")
	for name, values := range map[string][]string{"output": {"json", "yaml", "wide"}, "diff": {"fields", "unified", "none"}} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	completeObjects(cmd, c)
	return cmd
}

func (f *historyFlags) run(ctx context.Context, c *env, args []string) error {
	switch f.diff {
	case "fields", "unified", "none":
	default:
		return usagef("unknown --diff %q: use fields, unified or none", f.diff)
	}
	switch f.output {
	case "", "json", "yaml", "wide":
	default:
		return usagef("unknown output format %q: use json, yaml or wide", f.output)
	}
	refs, err := c.refs(args, f.all)
	if err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	for i, r := range refs {
		if r.name != "" && (f.all || f.selector != "") {
			return usagef("--all-namespaces and --selector choose among all objects of a kind: leave the name away")
		}
		if i > 0 {
			fmt.Fprintln(c.Out)
		}
		if err := f.one(ctx, c, client, r); err != nil {
			return err
		}
	}
	return nil
}

// one shows the history of one object or list.
func (f *historyFlags) one(ctx context.Context, c *env, client kubernetes.Interface, r ref) error {
	limit := ""
	if f.limit > 0 {
		limit = fmt.Sprint(f.limit)
	}
	h, err := readHistory(ctx, client, r, "history", "changes", "since", f.since, "limit", limit, "labelSelector", f.selector)
	if err != nil {
		return err
	}
	told, err := f.tell(&h)
	if err != nil {
		return err
	}
	if f.output == "json" || f.output == "yaml" {
		return show(c.Out, f.output, told, nil)
	}
	p := newHistoryPrinter(c.Out, f)
	p.print(told, r)
	return nil
}

// toldHistory is a History as it is shown: with differences, and without secrets.
type toldHistory struct {
	api.History `json:",inline"`
	Changes     []toldChange `json:"changes"`
}

type toldChange struct {
	api.Change `json:",inline"`
	Fields     []fieldChange `json:"fields,omitempty"`
	unified    string
}

// tell works out the differences.
func (f *historyFlags) tell(h *api.History) (*toldHistory, error) {
	hide := &hider{on: h.Resource == "secrets" && !f.secrets, known: map[string]int{}}
	out := &toldHistory{History: *h, Changes: []toldChange{}}
	var err error
	if out.Object, err = hide.raw(h.Object); err != nil {
		return nil, err
	}
	last := map[string]json.RawMessage{}
	hidden := noise
	if f.managed {
		hidden = nil
	}
	for _, c := range h.Changes {
		t := toldChange{Change: c}
		if t.Object, err = hide.raw(c.Object); err != nil {
			return nil, err
		}
		if t.Before, err = hide.raw(c.Before); err != nil {
			return nil, err
		}
		key := c.Namespace + "/" + c.Name
		if c.Type == "MODIFIED" {
			before := t.Before
			if before == nil {
				before = last[key]
			}
			if err := t.compare(before, hidden, f.diff); err != nil {
				return nil, err
			}
		}
		last[key] = t.Object
		out.Changes = append(out.Changes, t)
	}
	return out, nil
}

func (t *toldChange) compare(before json.RawMessage, hidden []string, how string) error {
	old, err := document(before)
	if err != nil {
		return err
	}
	now, err := document(t.Object)
	if err != nil {
		return err
	}
	t.Fields = fieldChanges(old, now, hidden)
	if how == "unified" {
		t.unified, err = unified(old, now, hidden)
	}
	return err
}

// document decodes JSON; numbers keep their digits.
func document(b json.RawMessage) (map[string]any, error) {
	if len(b) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("the server's answer is not what this version of mgr expects: %w", err)
	}
	return v, nil
}

// hider puts "(hidden 1)", "(hidden 2)", … in the place of a secret's values: equal values get equal numbers, so that one sees what
// changed and not what it is.
type hider struct {
	on    bool
	known map[string]int
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func (h *hider) raw(b json.RawMessage) (json.RawMessage, error) {
	if !h.on || len(b) == 0 {
		return b, nil
	}
	doc, err := document(b)
	if err != nil {
		return nil, err
	}
	for _, field := range []string{"data", "stringData"} {
		if values, ok := doc[field].(map[string]any); ok {
			for key, v := range values {
				values[key] = h.number(v)
			}
		}
	}
	if m, ok := doc["metadata"].(map[string]any); ok {
		if notes, ok := m["annotations"].(map[string]any); ok && notes[lastApplied] != nil {
			notes[lastApplied] = h.number(notes[lastApplied])
		}
	}
	return json.Marshal(doc)
}

func (h *hider) number(v any) string {
	text := valueText(v)
	if h.known[text] == 0 {
		h.known[text] = len(h.known) + 1
	}
	return fmt.Sprintf("(hidden %d)", h.known[text])
}

// request tells a request to an object in short: what of it the object does not say already.
func request(c *api.Change, h *api.History) string {
	verb, path, _ := strings.Cut(c.Cause, " ")
	name, _, _ := strings.Cut(h.Resource, ".")
	if verb == "" {
		return ""
	}
	place := "/" + name
	if c.Namespace != "" {
		place = "/namespaces/" + c.Namespace + place
	}
	_, rest, found := strings.Cut(path, place)
	if !found {
		return c.Cause
	}
	rest = strings.TrimPrefix(rest, "/"+c.Name)
	return strings.TrimSpace(verb + " " + strings.TrimPrefix(rest, "/"))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && cmp.Or(os.Getenv("NO_COLOR"), "") == "" && os.Getenv("TERM") != "dumb"
}
