// Package fault hurts real masters, each in a network namespace of its own under `mgr up`'s supervisor, while clients write, read and
// watch, and then asks the same three questions again and again: do all masters have one state (the same hash at the same
// index), is every acknowledged write there, and can what clients saw be explained (linearizable registers, watches without
// gap)?
//
// World is the cluster with its faults, Load what goes on meanwhile. A test hurts the world, then calls Load.Finish.
package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/cmd/admin"
	"mgr/cmd/local"
	"mgr/test/cluster"
	"mgr/test/load"
)

// Namespace of the objects that the load makes.
const Namespace = "fault"

// World is a cluster, by default three masters without nodes, with a client for each master.
type World struct{ *cluster.Masters }

// New starts a cluster and takes it down, with a look for leftovers, when the test ends. o.Nodes 0 means none here.
func New(t *testing.T, o cluster.Options) *World {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = -1
	}
	w := &World{cluster.NewMasters(t, cluster.Start(t, o))}
	t.Cleanup(func() { w.keep(t) })
	_, err := w.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Whole(t)
	return w
}

// Beside is New for a test that runs beside another one: most of them wait most of the time.
func Beside(t *testing.T, o cluster.Options) *World {
	t.Helper()
	t.Parallel()
	return New(t, o)
}

// At is the client of one master.
func (w *World) At(id string) kubernetes.Interface { return w.Kubes[slices.Index(w.IDs, id)] }

// DataDir of a master.
func (w *World) DataDir(id string) string { return filepath.Join(w.Dir, id) }

// Do carries out a verb on a host: start (at once, without the supervisor's back-off), stop, kill, pause, resume, cut, heal.
func (w *World) Do(t *testing.T, host, verb string) {
	t.Helper()
	if err := w.Hosts.Do(context.WithoutCancel(t.Context()), host, verb); err != nil {
		t.Fatalf("%s %s: %v", verb, host, err)
	}
}

// Override changes how a host is started from its next start on, until the test ends.
func (w *World) Override(t *testing.T, host string, o local.Override) {
	t.Helper()
	if err := o.Save(w.Dir, host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := (local.Override{}).Save(w.Dir, host); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}

// Kill ends a master's process with SIGKILL and has it started anew at once.
func (w *World) Kill(t *testing.T, ids ...string) {
	t.Helper()
	was := map[string]int{}
	for _, id := range ids {
		was[id] = w.PID(t, id)
	}
	for _, id := range ids {
		if pid := was[id]; pid != 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	for _, id := range ids {
		w.Revive(t, id, was[id])
	}
}

// Revive waits until the supervisor has noticed that the process with this pid is dead and starts the host anew.
func (w *World) Revive(t *testing.T, id string, dead int) {
	t.Helper()
	cluster.Eventually(t, 30*time.Second, id+" runs again", func(context.Context) error {
		pid := w.PID(t, id)
		if pid == 0 {
			w.Do(t, id, "start")
		}
		if pid == 0 || pid == dead {
			return errors.New("not yet")
		}
		return nil
	})
}

// PID of a host's process, 0 if none runs.
func (w *World) PID(t *testing.T, id string) int {
	t.Helper()
	hosts, err := w.Hosts.Hosts(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if h.Name == id {
			return h.Pid
		}
	}
	t.Fatalf("no host %s", id)
	return 0
}

// Members as a random master sees them.
func (w *World) Members(ctx context.Context) ([]admin.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, load.Patience)
	defer cancel()
	return admin.Members(ctx, w.Any())
}

// Converged waits until all masters are whole and have one state: the same hash at the same index, which each has reached.
func (w *World) Converged(t *testing.T) (index uint64, hash string) {
	t.Helper()
	w.Whole(t)
	cluster.Eventually(t, time.Minute, "one state on all masters", func(ctx context.Context) error {
		members, err := w.Members(ctx)
		if err == nil && len(members) != len(w.IDs) {
			err = fmt.Errorf("a master that has just begun anew knows %d", len(members))
		}
		if err != nil {
			return err
		}
		index, hash = members[0].HashIndex, members[0].Hash
		for _, m := range members {
			if m.HashIndex == 0 || m.HashIndex != index || m.Hash != hash || m.AppliedIndex != members[0].AppliedIndex || m.Diverged {
				return fmt.Errorf("the masters differ: %+v", members)
			}
		}
		return nil
	})
	return index, hash
}

// Log is what a host has written to its log so far.
func (w *World) Log(t *testing.T, host string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.Dir, host, "mgr.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// keep copies what the masters left on disk to the directory $MGR_KEEP when the test has failed, to be looked at.
func (w *World) keep(t *testing.T) {
	to := os.Getenv("MGR_KEEP")
	if to == "" || !t.Failed() {
		return
	}
	for _, id := range w.IDs {
		if err := os.CopyFS(filepath.Join(to, fmt.Sprintf("%s-%d", w.Name, time.Now().Unix()), id), os.DirFS(w.DataDir(id))); err != nil {
			t.Log("keep the files of ", id, err)
		}
	}
}
