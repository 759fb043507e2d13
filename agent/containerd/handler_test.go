package containerd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mgr/agent"
	"mgr/agent/containerd"
)

// A pod's containers are made by the runtime that its class names, and by none that this node does not have.
func TestRuntimeHandlers(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Runtime = nil
	calls, other := filepath.Join(n.dir, "calls"), filepath.Join(n.dir, "other-runc")
	script := "#!/bin/sh\necho \"$@\" >>" + calls + "\nexec runc \"$@\"\n"
	if err := os.WriteFile(other, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	n.open(func(c *containerd.Config) { c.Handlers = map[string]string{"other": other} })

	pod := n.pod("classy", func(s *agent.SandboxSpec) { s.Handler = "other" })
	if out, _ := n.output(n.shell(pod, "main", "echo hello")); out != "hello\n" {
		t.Errorf("said %q", out)
	}
	if said, err := os.ReadFile(calls); err != nil || !strings.Contains(string(said), "create") || !strings.Contains(string(said), "start") {
		t.Errorf("the other runtime was asked for %q, %v", said, err)
	}
	_, err := n.EnsureSandbox(t.Context(), agent.SandboxSpec{Pod: agent.PodRef{UID: "none"}, Handler: "none"})
	if err == nil || !strings.Contains(err.Error(), `no runtime for "none" is configured`) {
		t.Errorf("a handler that is not there: %v", err)
	}
	names := map[string]agent.Handler{}
	for _, h := range n.Handlers() {
		names[h.Name] = h
	}
	if len(names) != 3 || names["other"].RecursiveReadOnlyMounts != names[""].RecursiveReadOnlyMounts || names["runc"].UserNamespaces != names[""].UserNamespaces {
		t.Errorf("handlers %+v", names)
	}
	_, err = containerd.Open(t.Context(), containerd.Config{Dir: n.dir, Address: n.daemon.Address(), Log: n.log,
		Handlers: map[string]string{"gone": "/no/such/runtime"}})
	if err == nil || !strings.Contains(err.Error(), "/no/such/runtime") {
		t.Errorf("a handler without an executable: %v", err)
	}
}
