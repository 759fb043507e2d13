package fault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mgr/raftnode"
	"mgr/test/cluster"
)

// TestKilledAtTheBirthOfACluster kills the first master while it founds its cluster: its supervisor starts it anew, and `mgr up` brings up
// a cluster all the same.
func TestKilledAtTheBirthOfACluster(t *testing.T) {
	for _, point := range []string{
		"keys.save.next", "keys.save.next@2", "keys.save.next@3", "disk.vote.create.before", "disk.vote.rename.before", "disk.vote.rename.after",
		"join.bootstrap.before", "disk.log.create.after", "disk.log.write.torn", "join.bootstrap.after", "join.mark.before", "join.mark.after",
		"leadership.won", "leadership.begun",
	} {
		name, at, _ := strings.Cut(point, "@")
		file := filepath.Join(t.TempDir(), pointsFile)
		if at != "" {
			at = "@" + at
		}
		if err := os.WriteFile(file, []byte(name+"=kill"+at), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Run(point, func(t *testing.T) {
			cluster.Start(t, cluster.Options{
				Name: "birth", Masters: 1, Nodes: -1, Binary: cluster.Failpoints(t), Env: []string{"MGR_FAILPOINTS_FILE=" + file, powerCut},
			})
			if b, err := os.ReadFile(file + ".fired"); err != nil || !strings.Contains(string(b), name) {
				t.Errorf("the point was not reached: %s %v", b, err)
			}
		})
	}
}

// TestKilledWhileInstalledAnew kills a master whose data cannot be trusted, while it notes that and while it moves them aside: it is
// installed anew all the same, and all masters have one state.
func TestKilledWhileInstalledAnew(t *testing.T) {
	w := Beside(t, withPoints(t, "anew", powerCut))
	l := w.StartLoad(t, 2, 8)
	l.Await(t, 100)
	for _, point := range []string{"reinstall.aside.before", "reinstall.aside.cleared", "reinstall.aside.after"} {
		id := w.aFollower(t)
		w.Do(t, id, "stop")
		if err := raftnode.MarkReinstall(filepath.Join(w.DataDir(id), "raft"), "a test asks for it"); err != nil {
			t.Fatal(err)
		}
		w.arm(t, id, point+"=kill")
		w.Do(t, id, "start")
		dead, pid := w.fired(t, point, []string{id})
		w.Revive(t, dead, pid)
		w.agree(t)
	}
	// A state that differs is found out by comparison: the peer ends itself, and is killed when it has noted why.
	id := w.aFollower(t)
	w.arm(t, id, "state.tamper=error:differ,reinstall.marked=kill")
	dead, pid := w.fired(t, "reinstall.marked", []string{id})
	w.Revive(t, dead, pid)
	w.agree(t)
	t.Log(l.Finish(t))
}

// aFollower other than the first master.
func (w *World) aFollower(t *testing.T) string {
	lead := w.agree(t)
	for _, id := range w.IDs[1:] {
		if id != lead.ID {
			return id
		}
	}
	t.Fatal("there is none")
	return ""
}
