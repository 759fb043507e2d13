package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"mgr/test/cluster"
)

// TestLogsOfAKilledAgent: an agent that is killed again and again while a container talks loses no line and doubles none.
func TestLogsOfAKilledAgent(t *testing.T) {
	s := shared.Space(t)
	p := cluster.Busybox("talks", "i=0; while [ $i -lt 200000 ]; do echo line $i; i=$((i+1)); done; echo the end; exec sleep 3600")
	p.Spec.NodeName = "node-2"
	s.Run(p)
	node := shared.Node("node-2")
	for range 5 {
		old := node.AgentPID(t)
		node.KillAgent(t, unix.SIGKILL)
		node.AwaitAgent(t, old)
	}
	cluster.Eventually(t, time.Minute, "the container has said everything", func(ctx context.Context) error {
		out := s.Mgr(ctx, "-n", s.Namespace, "logs", "talks", "--tail", "1")
		if out.Stdout != "the end\n" {
			return fmt.Errorf("%+v", out)
		}
		return nil
	})
	lines := strings.Split(s.Logs("talks", "main"), "\n")
	for i, line := range lines[:len(lines)-2] {
		if want := fmt.Sprint("line ", i); line != want {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if len(lines) != 200_002 {
		t.Errorf("%d lines", len(lines))
	}
}

// TestLogsThatFlood: what a container says is bounded on the disk, and another one on the node goes on talking.
func TestLogsThatFlood(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	flood := cluster.Busybox("flood", "dd if=/dev/zero bs=1M count=200 2>/dev/null | tr '\\0' 'x' | fold -w 99; echo; echo the end; exec sleep 3600")
	flood.Spec.NodeName = "node-1"
	flooding := s.Run(flood)
	quiet := cluster.Busybox("quiet", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done")
	quiet.Spec.NodeName = "node-1"
	s.Run(quiet)
	cluster.Eventually(t, 2*time.Minute, "the flood has ended", func(ctx context.Context) error {
		if out := s.Mgr(ctx, "-n", s.Namespace, "logs", "flood", "--tail", "1"); out.Stdout != "the end\n" {
			return fmt.Errorf("%.100q, %s", out.Stdout, out.Stderr)
		}
		return nil
	})
	dir := filepath.Join(shared.Node("node-1").Layout.Dir, "logs", s.Namespace+"_flood_"+string(flooding.UID), "main")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) > 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	var size int64
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 51<<20 || size < 35<<20 {
		t.Errorf("200 MB of output take %d bytes of the disk", size)
	}
	if out := s.Logs("quiet", "main"); !strings.HasPrefix(out, "tick 1\ntick 2\n") {
		t.Errorf("the quiet one says %.100q", out)
	}
	if out := s.Logs("flood", "main", "--limit-bytes", "50"); out != strings.Repeat("x", 50) {
		t.Errorf("50 bytes: %q", out)
	}
}

// TestLogsOfStrangeOutput: long lines, bytes that are no text, no newline at the end; and a log that somebody removes.
func TestLogsOfStrangeOutput(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	strange := cluster.Busybox("strange", `printf '%0100000d\n' 7; printf '\000\377\n'; echo err >&2; printf 'no end'`)
	strange.Spec.RestartPolicy = corev1.RestartPolicyNever
	init := strange.Spec.Containers[0]
	init.Name, init.Command = "before", []string{"sh", "-c", "echo first"}
	strange.Spec.InitContainers = []corev1.Container{init}
	s.Create(strange)
	s.Await("strange", "has finished", cluster.Finished)
	want := strings.Repeat("0", 99_999) + "7\n\x00\xff\n"
	out := strings.Replace(s.Logs("strange", "main"), "err\n", "", 1)
	if out != want+"no end" {
		t.Errorf("%d bytes came, the last ones %q", len(out), out[max(0, len(out)-40):])
	}
	if out := s.Logs("strange", "before"); out != "first\n" {
		t.Errorf("the init container says %q", out)
	}
	removed := cluster.Busybox("removed", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done")
	p := s.Run(removed)
	path := filepath.Join(shared.Node(p.Spec.NodeName).Layout.Dir, "logs", s.Namespace+"_removed_"+string(p.UID), "main", "0.log")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, 20*time.Second, "the log is there again", func(ctx context.Context) error {
		if out := s.Mgr(ctx, "-n", s.Namespace, "logs", "removed"); out.Code != 0 || !strings.Contains(out.Stdout, "tick") {
			return errors.New(out.Stderr)
		}
		return nil
	})
}

// TestDebug: an ephemeral container sees the processes of the one it is aimed at.
func TestDebug(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	s.Run(cluster.Busybox("aim", "exec sleep 7123"))
	s.Must(t, "-n", s.Namespace, "debug", "aim", "--image", cluster.BusyboxImage, "--target", "main", "-c", "eyes", "--profile", "general",
		"--", "sh", "-c", "ps; exec sleep 3600")
	cluster.Eventually(t, 30*time.Second, "the debugger sees the process", func(ctx context.Context) error {
		if out := s.Mgr(ctx, "-n", s.Namespace, "logs", "aim", "-c", "eyes"); !strings.Contains(out.Stdout, "sleep 7123") {
			return fmt.Errorf("%+v", out)
		}
		return nil
	})
}
