package api

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"k8s.io/apimachinery/pkg/version"

	"mgr/tunnel/profiles"
)

// Version is the level of the API that is served.
func Version() version.Info {
	return version.Info{
		Major: "1", Minor: "37", GitVersion: "v1.37.2+mgr", GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// systemRoutes are the paths that are no resources.
func (s *Server) systemRoutes(r *mux.Router) {
	r.Path("/version").HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.json(w, Version()) })
	r.Path("/metrics").Handler(s.metrics.handler())
	profiles.Route(r)
	for _, probe := range []string{"healthz", "livez", "readyz"} {
		checks := s.checks(probe)
		r.Path("/" + probe).HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answerChecks(w, r, probe, checks, "") })
		r.Path("/" + probe + "/{check}").HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name := mux.Vars(r)["check"]
			if checks[name] == nil {
				s.notFound(w, r)
				return
			}
			answerChecks(w, r, probe, checks, name)
		})
	}
	r.Path(crdPath).Methods(http.MethodGet).HandlerFunc(s.serveNoCRDs)
	r.Path("/mgr/v1/members").HandlerFunc(s.serveMembers)
	r.Path("/mgr/v1/why/{namespace}/{name}").HandlerFunc(s.serveWhy)
}

// json answers with an indented JSON document, as Kubernetes' system paths do.
func (s *Server) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := writeIndented(w, v); err != nil {
		s.log.Debug("writing an answer", "err", err)
	}
}

// crdPath is where kubectl looks when it does not know a kind, to tell one that the user has defined from one that does not
// exist.
const crdPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// serveNoCRDs says that users have defined no kinds. Discovery does not list the resource: nothing can be done with it.
func (s *Server) serveNoCRDs(w http.ResponseWriter, _ *http.Request) {
	s.json(w, map[string]any{
		"kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1",
		"metadata": map[string]any{"resourceVersion": fmt.Sprint(s.cfg.Quorum.FSM().State().Revision())}, "items": []any{},
	})
}

func (s *Server) serveMembers(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Members == nil {
		s.notFound(w, r)
		return
	}
	s.json(w, s.cfg.Members())
}

func (s *Server) serveWhy(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Explainer == nil {
		s.notFound(w, r)
		return
	}
	v := mux.Vars(r)
	out, err := s.cfg.Explainer.Explain(r.Context(), v["namespace"], v["name"])
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.json(w, out)
}

type check func(context.Context) error

// checks of one probe: a live master answers; a ready one also knows a leader and reads consistently.
func (s *Server) checks(probe string) map[string]check {
	out := map[string]check{"ping": func(context.Context) error { return nil }}
	if probe == "livez" {
		return out
	}
	out["leader"] = func(context.Context) error {
		if id, _, _ := s.cfg.Quorum.Leader(); id == "" {
			return fmt.Errorf("no leader is known: a majority of the masters must reach each other")
		}
		return nil
	}
	out["state"] = func(context.Context) error { return s.refusal() }
	out["read-index"] = s.cfg.Quorum.ReadIndex
	for name, c := range s.cfg.Ready {
		out[name] = c
	}
	return out
}

const checkTimeout = 2 * time.Second

func answerChecks(w http.ResponseWriter, r *http.Request, probe string, checks map[string]check, only string) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	var text strings.Builder
	failed := false
	exclude := r.URL.Query()["exclude"]
	names := make([]string, 0, len(checks))
	for name := range checks {
		if (only == "" || name == only) && !slices.Contains(exclude, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := checks[name](ctx); err != nil {
			failed = true
			fmt.Fprintf(&text, "[-]%s failed: %v\n", name, err)
			continue
		}
		fmt.Fprintf(&text, "[+]%s ok\n", name)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, verbose := r.URL.Query()["verbose"]
	switch {
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", text.String(), probe)
	case verbose:
		fmt.Fprintf(w, "%s%s check passed\n", text.String(), probe)
	default:
		fmt.Fprint(w, "ok")
	}
}
