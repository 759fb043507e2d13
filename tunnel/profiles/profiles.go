// Package profiles serves what the Go runtime knows of a process – CPU and heap profiles, goroutines, traces – at the paths where
// Kubernetes' components serve it. Masters and agents mount it behind their own authorization; it asks nobody who they are.
package profiles

import (
	"net/http"
	"net/http/pprof"

	"github.com/gorilla/mux"
)

// Path is where profiles are, as in `mgr get --raw /debug/pprof/heap`.
const Path = "/debug/pprof/"

// Route adds the paths under Path.
func Route(r *mux.Router) {
	for name, h := range map[string]http.HandlerFunc{
		"cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		r.Path(Path + name).HandlerFunc(h)
	}
	r.PathPrefix(Path).HandlerFunc(pprof.Index)
}
