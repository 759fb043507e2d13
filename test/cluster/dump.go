package cluster

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mgr/cmd/local"
)

// running are the clusters of this process, each with its test.
var running sync.Map

// root is the name of a test without its subtests.
func root(t testing.TB) string {
	name, _, _ := strings.Cut(t.Name(), "/")
	return name
}

// dumpAll is called when a test has waited in vain, while its clusters are still as it found them.
func dumpAll(t testing.TB) {
	running.Range(func(c, owner any) bool {
		if owner == root(t) {
			c.(*Cluster).dump(t)
		}
		return true
	})
}

// dump shows the end of every host's log, and keeps what the processes' goroutines do, once.
func (c *Cluster) dump(t testing.TB) {
	c.dumped.Do(func() {
		c.dumpLogs(t)
		c.dumpStacks(t)
	})
}

func (c *Cluster) dumpLogs(t testing.TB) {
	logs, err := filepath.Glob(filepath.Join(c.Dir, "*", "mgr.log"))
	if err != nil {
		t.Log(err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Log(err)
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("--- %s\n%s", path, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// dumpStacks ends every process by SIGQUIT, at which the Go runtime writes all goroutines to the host's log, and keeps those in a file
// for whoever looks for what hangs.
func (c *Cluster) dumpStacks(t testing.TB) {
	hosts, err := local.NewClient(c.Dir).Hosts(context.Background()) // it may fail before there is c.Hosts
	if err != nil {
		t.Log(err)
	}
	dir, err := os.MkdirTemp("", "mgr-stacks-"+c.Name+"-")
	if err != nil {
		t.Log(err)
		return
	}
	var own bytes.Buffer
	if err := errors.Join(pprof.Lookup("goroutine").WriteTo(&own, 2), os.WriteFile(filepath.Join(dir, "test"), own.Bytes(), 0o600)); err != nil {
		t.Log(err)
	}
	for _, h := range hosts {
		path := filepath.Join(c.Dir, h.Name, "mgr.log")
		before, err := os.Stat(path)
		if err != nil || h.Pid <= 0 || syscall.Kill(h.Pid, syscall.SIGQUIT) != nil {
			continue
		}
		time.Sleep(300 * time.Millisecond)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, h.Name), b[min(before.Size(), int64(len(b))):], 0o600)
		}
		if err != nil {
			t.Log(err)
		}
	}
	t.Logf("what the goroutines of all hosts and of the test did is in %s", dir)
}
