package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestParseRunc(t *testing.T) {
	const front = "--root /r --log /l --log-format json "
	for line, want := range map[string]command{
		front + "start abc":          {verb: "start", root: "/r", id: "abc"},
		front + "kill abc 15":        {verb: "kill", root: "/r", id: "abc", signal: 15},
		front + "delete abc":         {verb: "delete", root: "/r", id: "abc"},
		front + "delete --force abc": {verb: "delete", root: "/r", id: "abc", force: true},
	} {
		if got, ok := parseRunc(strings.Fields(line)); !ok || got != want {
			t.Errorf("%s: %+v, %v", line, got, ok)
		}
	}
	for _, line := range []string{
		"", "--version", "start abc", front, front + "start", front + "kill --all abc 9", front + "kill abc TERM", front + "exec abc",
		front + "create --bundle /b abc", front + "delete ../abc", front + "--debug start abc", front + "delete --force",
		"--systemd-cgroup " + front + "start abc", front + "start a b",
	} {
		if got, ok := parseRunc(strings.Fields(line)); ok {
			t.Errorf("%q counts as %+v", line, got)
		}
	}
}

func TestDeleteResponse(t *testing.T) {
	at := time.Unix(1795437720, 123456789)
	var got taskapi.DeleteResponse
	if err := proto.Unmarshal(deleteResponse(4711, 137, at), &got); err != nil {
		t.Fatal(err)
	}
	want := &taskapi.DeleteResponse{Pid: 4711, ExitStatus: 137, ExitedAt: timestamppb.New(at)}
	if !proto.Equal(&got, want) {
		t.Errorf("%v, want %v", &got, want)
	}
}

// fake is a container as far as runc's record goes: a process, directories in the place of cgroups.
type fake struct {
	t      *testing.T
	root   string
	cgroup string
	cmd    *exec.Cmd
	state  map[string]any
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, root: t.TempDir(), cgroup: filepath.Join(t.TempDir(), "c1"), cmd: exec.Command("sleep", "1000")}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.cmd.Process.Kill(); _ = f.cmd.Wait() })
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	f.state = map[string]any{
		"id": "c1", "init_process_pid": f.cmd.Process.Pid, "init_process_start": json.Number(strings.Fields(string(text))[21]),
		"cgroup_paths": map[string]string{"cpu": f.cgroup},
		"config":       map[string]any{"namespaces": []map[string]string{{"type": "NEWNS"}, {"type": "NEWPID"}}, "Hooks": map[string]any{"poststop": nil}},
	}
	if err := os.MkdirAll(filepath.Join(f.cgroup, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.save()
	return f
}

func (f *fake) save() {
	text, err := json.Marshal(f.state)
	if err == nil {
		err = os.MkdirAll(filepath.Join(f.root, "c1"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(f.root, "c1", "state.json"), text, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestLife(t *testing.T) {
	f := newFake(t)
	fifo := filepath.Join(f.root, "c1", "exec.fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(fifo, []byte("0"), 0) }()
	if !(command{verb: "start", root: f.root, id: "c1"}).run() {
		t.Fatal("not started")
	}
	if err := <-wrote; err != nil || f.there(fifo) {
		t.Errorf("the process got %v; the pipe remains: %v", err, f.there(fifo))
	}
	if (command{verb: "delete", root: f.root, id: "c1"}).run() || (command{verb: "delete", root: f.root, id: "c1", force: true}).run() {
		t.Error("deleted while it runs")
	}
	if !(command{verb: "kill", root: f.root, id: "c1", signal: 9}).run() {
		t.Fatal("not killed")
	}
	if err := f.cmd.Wait(); err == nil || f.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("ended with %v", err)
	}
	if (command{verb: "kill", root: f.root, id: "c1", signal: 9}).run() || (command{verb: "start", root: f.root, id: "c1"}).run() {
		t.Error("a dead one was killed or started")
	}
	if !(command{verb: "delete", root: f.root, id: "c1"}).run() || f.there(filepath.Join(f.root, "c1")) || f.there(f.cgroup) {
		t.Error("not deleted")
	}
	if (command{verb: "delete", root: f.root, id: "c1"}).run() {
		t.Error("runc is to say that there is no such container")
	}
	if !(command{verb: "delete", root: f.root, id: "c1", force: true}).run() {
		t.Error("there is nothing to delete by force, which is no error")
	}
}

// TestUnusual: whatever is not plain is left to runc, and left alone.
func TestUnusual(t *testing.T) {
	for name, change := range map[string]func(*fake){
		"another process has the pid": func(f *fake) { f.state["init_process_start"] = 1 },
		"hooks": func(f *fake) {
			f.state["config"].(map[string]any)["Hooks"] = map[string]any{"poststop": []any{map[string]any{}}}
		},
		"shared PID namespace": func(f *fake) {
			f.state["config"].(map[string]any)["namespaces"] = []map[string]string{{"type": "NEWPID", "path": "/x"}}
		},
		"PID namespace of the host": func(f *fake) { f.state["config"].(map[string]any)["namespaces"] = []map[string]string{} },
		"resource group":            func(f *fake) { f.state["intel_rdt_path"] = "/sys/fs/resctrl/c1" },
		"no pid":                    func(f *fake) { f.state["init_process_pid"] = 0 },
		"a record of another":       func(f *fake) { f.state["id"] = "c2" },
		"a cgroup of others":        func(f *fake) { f.state["cgroup_paths"] = map[string]string{"cpu": filepath.Dir(f.cgroup)} },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			change(f)
			f.save()
			if name != "a cgroup of others" && (command{verb: "kill", root: f.root, id: "c1", signal: 9}).run() {
				t.Error("killed")
			}
			if name == "another process has the pid" {
				return // the container itself has ended, and may be deleted
			}
			_ = f.cmd.Process.Kill()
			_ = f.cmd.Wait()
			if (command{verb: "delete", root: f.root, id: "c1"}).run() || !f.there(f.cgroup) || !f.there(filepath.Join(f.root, "c1")) {
				t.Error("deleted")
			}
		})
	}
}

func TestShimDelete(t *testing.T) {
	bundle, root := t.TempDir(), t.TempDir()
	args := []string{"-namespace", "mgr", "-address", "/a", "-publish-binary", "/p", "-id", "c1", "-bundle", bundle, "delete"}
	c, ok := parseShim(args)
	if want := (shimDelete{"mgr", "c1", bundle}); !ok || c != want {
		t.Fatalf("%+v, %v", c, ok)
	}
	if _, ok := parseShim(append(args[:len(args)-1:len(args)-1], "start")); ok {
		t.Error("start counts as delete")
	}
	out := os.Stdout
	defer func() { os.Stdout = out }()
	answer := func() (string, bool) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout = w
		ok := c.deleted()
		w.Close()
		var text bytes.Buffer
		_, _ = text.ReadFrom(r)
		return text.String(), ok
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(bundle, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := answer(); ok {
		t.Error("answered without a bundle's files")
	}
	write("options.json", fmt.Sprintf(`{"root": %q}`, root))
	write("exit.json", `{"Timestamp":"2026-11-23T12:00:00.5Z","Pid":42,"Status":3}`)
	text, ok := answer()
	var got taskapi.DeleteResponse
	if err := proto.Unmarshal([]byte(text), &got); !ok || err != nil || got.Pid != 42 || got.ExitStatus != 3 || got.ExitedAt.Nanos != 5e8 {
		t.Errorf("answered %v, %v, %v", &got, ok, err)
	}
	if err := os.MkdirAll(filepath.Join(root, "mgr", "c1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, ok := answer(); ok {
		t.Error("answered although runc still knows the container")
	}
}
