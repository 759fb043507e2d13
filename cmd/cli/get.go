package cli

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"mgr/api"
)

// past is a point in time that --at or --at-revision names for a command that reads: what it asks the API server for, it gets as
// it was then.
type past struct {
	at       string
	revision uint64

	mu     sync.Mutex
	pinned string // the revision that the first answer was of: all others are to be of the same
}

const pastExamples = `

		# List all pods as they were five minutes ago, deleted ones included
		mgr get pods --at 5m

		# Show a deployment as it was at a point in time, or at a revision that 'mgr history' shows
		mgr get deployment web -o yaml --at 2026-11-23T10:00:00Z
		mgr get deployment web -o yaml --at-revision 812`

// addTo gives kubectl's commands that show objects the flags --at and --at-revision.
func (p *past) addTo(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "get":
			cmd.Example += pastExamples
			p.addFlags(cmd)
		case "describe":
			p.addFlags(cmd)
		}
	}
}

func (p *past) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.at, "at", "", "Show what there was so long ago (5m, 2h30m, 3d), or at a time (2026-11-23T10:00:00Z), as far back as history reaches.")
	cmd.Flags().Uint64Var(&p.revision, "at-revision", 0, "Show what there was at a revision of the cluster (a resourceVersion; 'mgr history' shows them).")
	cmd.MarkFlagsMutuallyExclusive("at", "at-revision")
	_ = cmd.RegisterFlagCompletionFunc("at", cobra.FixedCompletions([]string{"1m", "5m", "1h"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
	_ = cmd.RegisterFlagCompletionFunc("at-revision", cobra.NoFileCompletions)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range []string{"watch", "watch-only"} {
			if f := cmd.Flags().Lookup(name); p.asked() && f != nil && f.Value.String() == "true" {
				return usagef("--%s shows what is to come, and --at and --at-revision what was: use one of them", name)
			}
		}
		if cmd.Flags().Changed("at-revision") && p.revision == 0 {
			return usagef("--at-revision 0 is before everything: 'mgr history KIND/NAME' shows revisions")
		}
		return nil
	}
}

func (p *past) asked() bool { return p.at != "" || p.revision != 0 }

// wrap makes the requests of a client configuration ask for the past, if the command line does.
func (p *past) wrap(c *rest.Config) *rest.Config {
	if p.asked() {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper { return pastTransport{p, next} })
	}
	return c
}

var errNoPast = errors.New("this API server does not know the past: it is not mgr, or an older version of it")

type pastTransport struct {
	*past
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t pastTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet || !isResourcePath(r.URL.Path) {
		return t.next.RoundTrip(r)
	}
	name, value := t.parameter()
	r = r.Clone(r.Context())
	q := r.URL.Query()
	q.Set(name, value)
	q.Del("resourceVersion")
	r.URL.RawQuery = q.Encode()
	answer, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	revision := answer.Header.Get(api.RevisionHeader)
	if revision == "" && answer.StatusCode == http.StatusOK {
		return nil, errors.Join(errNoPast, answer.Body.Close()) // it would show the present
	}
	t.pin(revision)
	return answer, nil
}

func (p *past) parameter() (name, value string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.revision != 0:
		return "atRevision", strconv.FormatUint(p.revision, 10)
	case p.pinned != "":
		return "atRevision", p.pinned
	}
	return "at", p.at
}

func (p *past) pin(revision string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pinned == "" {
		p.pinned = revision
	}
}

// isResourcePath tells objects and lists from what describes the API.
func isResourcePath(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	return parts[0] == "api" && len(parts) > 2 || parts[0] == "apis" && len(parts) > 3
}
