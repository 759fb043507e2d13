package containerd_test

import (
	"bytes"
	"regexp"
	"testing"
	"time"

	"mgr/agent"
)

func TestLifecycle(t *testing.T) {
	n := newNode(t)
	exits := n.Exits(t.Context())
	pod := n.pod("one")
	spec := n.spec(pod, "main", "/bin/echo", "hello")
	id := n.run(spec)
	if got := <-exits; got != id {
		t.Fatalf("exit of %s, want %s", got, id)
	}
	c := n.exited(id)
	if c.ExitCode != 0 || c.Started.IsZero() || c.Finished.IsZero() || c.Pod != pod || c.Name != "main" || c.Kind != "app" {
		t.Errorf("after the end: %+v", c)
	}
	want := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z stdout F hello\n$`)
	if log := n.logOf(spec); !want.MatchString(log) {
		t.Errorf("log: %q", log)
	}
	for range 2 { // idempotent
		if err := n.RemoveContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := n.RemoveSandbox(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExec(t *testing.T) {
	n := newNode(t)
	id := n.run(n.spec(n.pod("exec"), "main", "/bin/sleep", "infinity"))
	var out, errs bytes.Buffer
	code, err := n.Exec(t.Context(), id, agent.ExecSpec{Command: []string{"/bin/cat"},
		Streams: agent.Streams{Stdin: bytes.NewBufferString("through"), Stdout: &out, Stderr: &errs}})
	if err != nil || code != 0 || out.String() != "through" {
		t.Errorf("cat: code %d, %v, output %q, errors %q", code, err, out.String(), errs.String())
	}
	code, err = n.Exec(t.Context(), id, agent.ExecSpec{Command: []string{"/bin/crash", "7"}, Streams: agent.Streams{Stderr: &errs}})
	if err != nil || code != 7 || errs.String() != "demo: crashing as told, code 7\n" {
		t.Errorf("crash: code %d, %v, errors %q", code, err, errs.String())
	}
	if _, err := n.Exec(t.Context(), id, agent.ExecSpec{Command: []string{"/nothing"}}); err == nil {
		t.Error("a command that does not exist was executed")
	}
	began := time.Now()
	if err := n.StopContainer(t.Context(), id, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if c := n.container(id); c.ExitCode != 128+15 || time.Since(began) > 5*time.Second {
		t.Errorf("stopped after %s: %+v", time.Since(began), c)
	}
}
