package fault

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// TestKilledWhileRestoring kills the leader at each step of a restore into its running quorum, and the command at each step of a restore
// into a new machine: the old state or the snapshot's is there, whole, on all masters, and the next try succeeds.
func TestKilledWhileRestoring(t *testing.T) {
	w := Beside(t, withPoints(t, "restoring"))
	file := filepath.Join(t.TempDir(), "snapshot")
	w.Must(t, "create", "configmap", "kept", "-n", Namespace)
	w.Must(t, "snapshot", "save", file)
	steps := 0
	for _, point := range []string{"restore.propose.before", "restore.propose.after"} {
		for nth := 1; nth <= 3; nth++ { // begin, the only piece, commit
			lead := w.agree(t)
			w.create(t, "later")
			w.arm(t, lead.ID, fmt.Sprintf("%s=kill@%d", point, nth))
			first := w.Mgr(t.Context(), "snapshot", "restore", file, "--yes")
			dead, pid := w.fired(t, point, []string{lead.ID})
			w.Revive(t, dead, pid)
			w.agree(t)
			w.whichState(t, fmt.Sprintf("%s@%d", point, nth), nth == 3 && point == "restore.propose.after" || first.Code == 0)
			if again := w.Mgr(t.Context(), "snapshot", "restore", file, "--yes"); again.Code != 0 {
				t.Fatalf("%s@%d: the second try: %s%s", point, nth, again.Stdout, again.Stderr)
			}
			w.agree(t)
			w.whichState(t, "the second try", true)
			steps++
		}
	}
	t.Logf("the leader was killed at %d steps of a restore; one state on all masters each time", steps)
	offline(t, file)
}

// create makes an object that the snapshot does not have, if it is not there.
func (w *World) create(t *testing.T, name string) {
	t.Helper()
	if o := w.Mgr(t.Context(), "create", "configmap", name, "-n", Namespace); o.Code != 0 && !strings.Contains(o.Stderr, "exists") {
		t.Fatal(o.Stderr)
	}
}

// whichState fails the test when a master has neither the state of before nor that of the snapshot, or not the one that it must.
func (w *World) whichState(t *testing.T, when string, mustBeRestored bool) {
	t.Helper()
	var seen []bool
	for i, at := range w.Kubes {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		maps := at.CoreV1().ConfigMaps(Namespace)
		if _, err := maps.Get(ctx, "kept", metav1.GetOptions{}); err != nil {
			t.Errorf("%s: %s has lost what the snapshot and the old state have: %v", when, w.IDs[i], err)
		}
		_, err := maps.Get(ctx, "later", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("%s: %s: %v", when, w.IDs[i], err)
		}
		seen = append(seen, err != nil)
	}
	for _, restored := range seen {
		if restored != seen[0] || mustBeRestored && !restored {
			t.Errorf("%s: restored on the masters: %v, must be: %v", when, seen, mustBeRestored)
		}
	}
}

// offline kills `mgr snapshot restore --data-dir` at each of its steps: there is no data directory or a whole one.
func offline(t *testing.T, file string) {
	for _, point := range []string{"restore.keys.saved", "disk.vote.rename.before", "disk.snapshot.rename.before", "restore.seeded", "restore.rename.before", "restore.rename.after"} {
		dir := filepath.Join(t.TempDir(), "server")
		run := func(env ...string) cluster.Output {
			cmd := exec.Command(cluster.Failpoints(t), "snapshot", "restore", file, "--data-dir", dir, "--id", "master-1", "--advertise", "10.0.0.1", "--yes")
			cmd.Env = append(os.Environ(), env...)
			return cluster.Run(cmd)
		}
		if o := run("MGR_FAILPOINTS=" + point + "=kill"); o.Code != -1 {
			t.Errorf("%s was not reached: exit %d\n%s%s", point, o.Code, o.Stdout, o.Stderr)
		}
		_, err := os.Stat(dir)
		if done := err == nil; done != (point == "restore.rename.after") {
			t.Errorf("killed at %s: the directory is there: %v", point, done)
		}
		if err != nil {
			if o := run(); o.Code != 0 {
				t.Errorf("killed at %s, the second try: exit %d\n%s%s", point, o.Code, o.Stdout, o.Stderr)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "joined")); err != nil {
			t.Errorf("killed at %s: %v", point, err)
		}
	}
}

// TestKilledWhileRecovering destroys two of three masters and kills `mgr recover` at each of its steps on the third: a master
// whose recovery is unfinished does not start, the next recovery succeeds, the cluster has what the survivor had, and new masters join it.
func TestKilledWhileRecovering(t *testing.T) {
	w := Beside(t, withPoints(t, "recovering"))
	w.Must(t, "create", "configmap", "kept", "-n", Namespace)
	w.agree(t)
	for _, id := range w.IDs {
		w.Do(t, id, "stop")
	}
	recover := func(env ...string) cluster.Output {
		cmd := exec.Command(cluster.Failpoints(t), "recover", "--data-dir", w.DataDir("master-1"), "--id", "master-1", "--yes")
		cmd.Env = append(os.Environ(), env...)
		return cluster.Run(cmd)
	}
	for _, point := range []string{"recover.begun", "recover.term.stored", "disk.log.write.torn", "recover.configured", "recover.epoch.kept"} {
		if o := recover("MGR_FAILPOINTS=" + point + "=kill"); o.Code != -1 {
			t.Errorf("%s was not reached: exit %d\n%s%s", point, o.Code, o.Stdout, o.Stderr)
		}
	}
	if o := recover(); o.Code != 0 {
		t.Fatalf("after being killed: exit %d\n%s%s", o.Code, o.Stdout, o.Stderr)
	}
	w.Do(t, "master-1", "start")
	cluster.Eventually(t, time.Minute, "the survivor serves what it had", func(ctx context.Context) error {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := w.At("master-1").CoreV1().ConfigMaps(Namespace).Get(ask, "kept", metav1.GetOptions{})
		return err
	})
	for _, id := range w.IDs[1:] { // they come back with data of the old epoch
		w.Do(t, id, "start")
	}
	w.agree(t)
}
