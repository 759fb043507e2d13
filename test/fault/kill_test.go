package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/cmd/admin"
	"mgr/test/cluster"
)

// pointsFile is read by every process in its own directory.
const pointsFile = "failpoints"

// withPoints is how masters are started that can be killed at points, take snapshots all the time and keep little of their log, in
// small files.
func withPoints(t *testing.T, name string, more ...string) cluster.Options {
	return cluster.Options{Name: name, Binary: cluster.Failpoints(t), Env: append([]string{
		"MGR_FAILPOINTS_FILE=" + pointsFile, "MGR_FAILPOINT_SNAPSHOT_ENTRIES=200", "MGR_FAILPOINT_LOG_TRAILING=50", "MGR_FAILPOINT_SEGMENT_BYTES=65536",
	}, more...)}
}

// powerCut makes kill -9 a power cut: what was not synced is lost, but for a random third.
const powerCut = "MGR_DISK=lossy"

// part of the matrix that runs: MGR_MATRIX=all, or an eighth, another one each day; a part by its number (MGR_MATRIX=2); MGR_POINTS, a regular expression, chooses by name.
func part(i int) (runs bool, what string) {
	const parts = 8
	asked := os.Getenv("MGR_MATRIX")
	if asked == "all" {
		return true, "all of it"
	}
	n, err := strconv.Atoi(asked)
	if err != nil {
		n = int(time.Now().Unix() / 86400)
	}
	return i%parts == n%parts, fmt.Sprintf("part %d of %d, another each day; MGR_MATRIX=all for all", n%parts+1, parts)
}

// TestKilledAtEveryPoint kills a master, under load, at every failpoint, in every role that gets there. Each time its supervisor starts
// it anew, all masters come to one state, and in the end nothing acknowledged is lost and all that clients saw can be explained.
func TestKilledAtEveryPoint(t *testing.T) { killEverywhere(t, "matrix") }

// TestPowerCutAtEveryPoint is the same, and what a master had not synced is lost with it.
func TestPowerCutAtEveryPoint(t *testing.T) { killEverywhere(t, "power", powerCut) }

func killEverywhere(t *testing.T, name string, env ...string) {
	w := &killer{Beside(t, withPoints(t, name, env...)), map[role]int{}}
	w.PaperNode(t)
	l := w.StartLoad(t, 4, 16)
	i, what, names := 0, "", map[string]bool{}
	only := regexp.MustCompile(os.Getenv("MGR_POINTS"))
	for _, p := range allPoints() {
		for _, r := range roles {
			by, reached := p.roles[r]
			if !reached || by == byOthers {
				continue
			}
			var runs bool
			if runs, what = part(i); runs && only.MatchString(p.name) {
				w.run(t, l, p.name, r, by)
				names[p.name] = true
			}
			i++
		}
	}
	f := l.Finish(t)
	t.Logf("killed at %d of %d failpoints, %d times as leader, %d as follower, %d as joiner (%s)",
		len(names), len(allPoints()), w.killed[leader], w.killed[follower], w.killed[joiner], what)
	t.Logf("%s", f)
	w.unknown(t)
}

// unknown fails the test for a point that a master passed and the table does not have.
func (w *killer) unknown(t *testing.T) {
	known := map[string]bool{}
	for _, p := range allPoints() {
		known[p.name] = true
	}
	for _, id := range w.IDs {
		b, err := os.ReadFile(filepath.Join(w.DataDir(id), pointsFile+".seen"))
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if name := f[len(f)-1]; !known[name] {
				known[name] = true
				t.Errorf("%s passed the point %s, which the table does not have", id, name)
			}
		}
	}
}

type killer struct {
	*World
	killed map[role]int
}

// reaches is how long a master has for a point, once it was brought on the way to it. Not each way leads there: who was to be elected may
// not be, and a log that is short is not replaced by a snapshot.
const reaches, attempts = 15 * time.Second, 4

// run kills one master at one point.
func (w *killer) run(t *testing.T, l *Load, name string, r role, by trigger) {
	began := time.Now()
	for try := 1; ; try++ {
		lead := w.agree(t)
		victims := w.victims(lead, r, by)
		w.trigger(t, name, lead.ID, victims, r, by)
		limit := time.Now().Add(reaches)
		dead, pid, done := w.look(name, victims)
		for !done && time.Now().Before(limit) {
			cluster.Pause(t.Context(), 20*time.Millisecond)
			dead, pid, done = w.look(name, victims)
		}
		for _, id := range victims { // those that were armed in vain forget it
			w.disarm(t, id)
		}
		if !done && try < attempts {
			t.Logf("%s: none of %v got there by %s; once more", name, victims, by)
			continue
		}
		if !done {
			dead, pid = w.fired(t, name, victims)
		}
		w.Revive(t, dead, pid)
		break
	}
	w.agree(t)
	l.Await(t, 3)
	w.killed[r]++
	t.Logf("%-26s %-8s by %s, one state again after %s", name, r, by, time.Since(began).Round(time.Millisecond))
}

// agree waits until all masters are there with one hash at one index, and returns the leader.
func (w *World) agree(t *testing.T) (lead admin.Member) {
	t.Helper()
	cluster.Eventually(t, time.Minute, "one hash at one index on all masters", func(ctx context.Context) error {
		var members []admin.Member
		var err error
		if members, err = w.Members(ctx); err != nil {
			return err
		}
		lead = admin.Member{}
		for _, m := range members {
			if !m.Reachable || !m.Voter() || m.Diverged || m.HashIndex == 0 || m.HashIndex != members[0].HashIndex || m.Hash != members[0].Hash {
				return fmt.Errorf("%s is not with the others: %+v", m.ID, members)
			}
			if m.Role == "leader" {
				lead = m
			}
		}
		if lead.ID == "" || len(members) != len(w.IDs) {
			return fmt.Errorf("%d members, leader %q", len(members), lead.ID)
		}
		for _, id := range w.IDs { // one that lost everything may look as before until its leader hears of it
			if _, err := os.Stat(filepath.Join(w.DataDir(id), "joined")); err != nil {
				return fmt.Errorf("%s has not joined yet: %w", id, err)
			}
		}
		return nil
	})
	return lead
}

// victims are those of whom one will reach the point.
func (w *killer) victims(lead admin.Member, r role, by trigger) []string {
	others := slices.DeleteFunc(slices.Clone(w.IDs), func(id string) bool { return id == lead.ID })
	switch {
	case by == byElection:
		return others
	case by == byHandover:
		return w.IDs
	case r == leader:
		return []string{lead.ID}
	}
	return others[len(others)-1:] // never the first master, which would found a cluster of its own without its data
}

// trigger arms the victims and lets them get to the point.
func (w *killer) trigger(t *testing.T, name, lead string, victims []string, r role, by trigger) {
	arm := func() {
		for _, id := range victims {
			w.arm(t, id, name+"=kill")
		}
	}
	switch {
	case r == joiner:
		w.wipe(t, victims[0], arm)
	case by == byStart:
		w.Do(t, victims[0], "stop")
		arm()
		w.Do(t, victims[0], "start")
	case by == byTorn:
		w.arm(t, victims[0], "disk.log.write.torn=kill")
		w.fired(t, "disk.log.write.torn", victims)
		w.Do(t, victims[0], "stop")
		arm()
		w.Do(t, victims[0], "start")
	case by == byElection:
		arm()
		w.Kill(t, lead)
	case by == byHandover:
		arm()
		for range 5 { // a hand-over can fail, and another master can have come to lead
			w.Do(t, lead, "stop")
			w.Do(t, lead, "start")
			if _, _, done := w.look(name, victims); done {
				return
			}
			lead = w.agree(t).ID
		}
	case by == byJoin:
		arm()
		others := slices.DeleteFunc(slices.Clone(w.IDs), func(id string) bool { return id == lead })
		w.wipe(t, others[len(others)-1], func() {})
	case by == byPod:
		arm()
		w.pod(t)
	case by == byWatch:
		arm()
		w.watch(t, victims[0])
	default:
		arm()
	}
}

// watch has a client watch at a master until it is gone.
func (w *World) watch(t *testing.T, id string) {
	ctx, cancel := context.WithTimeout(t.Context(), reaches)
	watching, err := w.At(id).CoreV1().ConfigMaps(Namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		cancel()
		return // it may be dead already
	}
	go func() {
		defer cancel()
		for range watching.ResultChan() {
		}
	}()
}

// arm says what shall happen at points in a process.
func (w *World) arm(t *testing.T, id, what string) {
	t.Helper()
	path := filepath.Join(w.DataDir(id), pointsFile)
	if err := errors.Join(os.RemoveAll(path+".fired"), os.WriteFile(path+".new", []byte(what), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func (w *World) disarm(t *testing.T, id string) {
	t.Helper()
	path := filepath.Join(w.DataDir(id), pointsFile)
	if err := errors.Join(os.WriteFile(path+".new", []byte(" "), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// fired waits until one of the victims has reached the point, and says which, and as which process.
func (w *World) fired(t *testing.T, name string, victims []string) (dead string, pid int) {
	t.Helper()
	cluster.Eventually(t, 40*time.Second, "a master reaches "+name, func(context.Context) error {
		var done bool
		if dead, pid, done = w.look(name, victims); !done {
			return fmt.Errorf("none of %v did", victims)
		}
		return nil
	})
	return dead, pid
}

// look says whether one of the victims has reached the point.
func (w *World) look(name string, victims []string) (dead string, pid int, done bool) {
	for _, id := range victims {
		b, err := os.ReadFile(filepath.Join(w.DataDir(id), pointsFile+".fired"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			var at, what string
			if _, err := fmt.Sscan(line, &at, &pid, &what); err == nil && strings.HasPrefix(what, name+"=") {
				return id, pid, true
			}
		}
	}
	return "", 0, false
}

// wipe takes everything from a master but its log for humans, and has it join again.
func (w *World) wipe(t *testing.T, id string, before func()) {
	t.Helper()
	w.Do(t, id, "stop")
	entries, err := os.ReadDir(w.DataDir(id))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "mgr.log" && !strings.HasPrefix(e.Name(), pointsFile) {
			if err := os.RemoveAll(filepath.Join(w.DataDir(id), e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	before()
	w.Do(t, id, "start")
}

// pod makes a pod that the scheduler must place.
func (w *World) pod(t *testing.T) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p-%d", time.Now().UnixNano())}, Spec: corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "c", Image: "none"}},
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
	}}
	w.Anywhere(t, "a pod is taken", func(ctx context.Context, at kubernetes.Interface) error {
		_, err := at.CoreV1().Pods(Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return cluster.Made(err)
	})
}
