package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go/features"

	"mgr/agent"
)

// handler is an OCI runtime that pods choose by their runtime class.
type handler struct {
	agent.Handler
	path string // of its executable; "": the shim's own choice, runc
}

// findHandlers looks at the default runtime, under its two names, and at those that the administrator has added.
func findHandlers(ctx context.Context, added map[string]string) ([]handler, error) {
	standard := look(ctx, handler{}, "runc")
	list := []handler{standard, standard}
	list[1].Name = "runc"
	for _, name := range slices.Sorted(maps.Keys(added)) {
		path, err := exec.LookPath(added[name])
		if err != nil {
			return nil, fmt.Errorf("runtime handler %s: %w: name an OCI runtime's executable", name, err)
		}
		if path, err = filepath.Abs(path); err != nil {
			return nil, fmt.Errorf("runtime handler %s: %w", name, err)
		}
		h := look(ctx, handler{Handler: agent.Handler{Name: name}, path: path}, path)
		if name == "runc" {
			list[1] = h
			continue
		}
		list = append(list, h)
	}
	return list, nil
}

// look asks a runtime what it can do; one that does not know the question can do little.
func look(ctx context.Context, h handler, program string) handler {
	text, err := exec.CommandContext(ctx, program, "features").Output()
	var f features.Features
	if err == nil && json.Unmarshal(text, &f) == nil {
		h.RecursiveReadOnlyMounts = slices.Contains(f.MountOptions, "rro")
	}
	return h
}

// handler finds one by name.
func (r *Runtime) handler(name string) (handler, error) {
	for _, h := range r.handlers {
		if h.Name == name {
			return h, nil
		}
	}
	return handler{}, fmt.Errorf("no runtime for %q is configured on this node: name it with --runtime-handler %s=PATH", name, name)
}

// Handlers implements agent.Runtime.
func (r *Runtime) Handlers() []agent.Handler {
	out := make([]agent.Handler, len(r.handlers))
	for i, h := range r.handlers {
		out[i] = h.Handler
	}
	return out
}
