package fault

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/cmd/admin"
	"mgr/test/cluster"
)

// inject makes system calls of a running master slow or fail, until the returned function is called or the test ends.
func inject(t *testing.T, pid int, what string) (stop func()) {
	t.Helper()
	call, _, _ := strings.Cut(what, ":")
	cmd := exec.Command("strace", "-f", "-qq", "-p", fmt.Sprint(pid), "-e", "trace="+call, "-e", "inject="+what, "-o", "/dev/null")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("strace (apt-get install strace): %v", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it ends with the master, or by stop
		close(ended)
	}()
	cluster.Eventually(t, 20*time.Second, "strace follows all threads", func(context.Context) error { return traced(pid, cmd.Process.Pid) })
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone
			<-ended
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("strace: %s", said.String())
		}
	})
	return stop
}

// traced is nil when every thread of a process, if it still lives, is traced by another.
func traced(pid, by int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return err
	}
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that ended
		}
		if err != nil {
			return err
		}
		if !bytes.Contains(b, fmt.Appendf(nil, "TracerPid:\t%d\n", by)) {
			return fmt.Errorf("%s is not traced yet", path)
		}
	}
	return nil
}

// write creates an object at whatever master takes it, and says how long that took from began.
func (w *World) write(t *testing.T, name string, began time.Time) time.Duration {
	t.Helper()
	w.Anywhere(t, "a write", func(ctx context.Context, at kubernetes.Interface) error {
		_, err := at.CoreV1().ConfigMaps(Namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"},
		}, metav1.CreateOptions{})
		return err
	})
	return time.Since(began)
}

// ends waits until a master's process is gone and another one is there.
func (w *World) ends(t *testing.T, id string, pid int) {
	t.Helper()
	cluster.Eventually(t, 30*time.Second, id+" ends", func(context.Context) error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is there: %v", pid, err)
		}
		return nil
	})
	w.Revive(t, id, pid)
}

// TestSickDisks makes the disks of real masters hang, slow and fail, under load.
func TestSickDisks(t *testing.T) {
	w := Beside(t, cluster.Options{Name: "disks"})
	l := w.StartLoad(t, 4, 16)
	l.Await(t, 100)

	t.Run("the leader's disk hangs", func(t *testing.T) {
		lead := w.agree(t)
		stop := inject(t, lead.PID, "fdatasync:delay_enter=60000000")
		took := w.write(t, "hung", time.Now())
		t.Logf("all syncs of the leader hang from now on: a write is acknowledged after %v", took.Round(time.Millisecond))
		l.Await(t, 100)
		stop()
		if now := w.agree(t); now.Term == lead.Term {
			t.Errorf("%s still leads term %d", now.ID, now.Term)
		}
	})
	t.Run("all disks are slow", func(t *testing.T) {
		lead := w.agree(t)
		var stops []func()
		for i, id := range w.IDs {
			stops = append(stops, inject(t, w.PID(t, id), fmt.Sprintf("fdatasync:delay_enter=%d", 100_000*(i+1))))
		}
		l.Await(t, 30)
		if now := w.agree(t); now.ID != lead.ID || now.Term != lead.Term {
			t.Errorf("%s led term %d before syncs took 100, 200 and 300 ms; now %s leads term %d", lead.ID, lead.Term, now.ID, now.Term)
		}
		for _, stop := range stops {
			stop()
		}
	})
	for _, role := range []string{"leader", "follower"} {
		t.Run("a sync of the "+role+" fails", func(t *testing.T) {
			id := w.agree(t).ID
			if role == "follower" {
				id = w.aFollower(t)
			}
			pid := w.PID(t, id)
			inject(t, pid, "fdatasync:error=EIO:when=1")
			began := time.Now()
			w.ends(t, id, pid)
			t.Logf("writes go on after %v", w.write(t, "eio", began).Round(time.Millisecond))
			if !strings.Contains(w.Log(t, id), "input/output error") {
				t.Error("the log of the master does not say why it ended")
			}
			w.Converged(t)
		})
	}
	t.Log(l.Finish(t))
}

// TestDamagedFiles changes what a stopped master has on its disk, each time something else. It finds that out at its start, applies nothing
// of it, gets from the others what it cannot trust, and has their state again.
func TestDamagedFiles(t *testing.T) {
	w := Beside(t, withPoints(t, "damage"))
	l := w.StartLoad(t, 4, 16)
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for _, damage := range []struct {
		what  string
		files string // below the master's directory
		edit  func([]byte) []byte
	}{
		{"a bit of the log", "raft/log/*.log", flipIn(random, 0, 0.9)},
		{"a bit of the last entries", "raft/log/*.log", flipIn(random, 0.999, 1)},
		{"the end of the log", "raft/log/*.log", func(b []byte) []byte { return b[:len(bytes.TrimRight(b, "\x00"))*9/10] }},
		{"a bit of the newest snapshot", "raft/snapshots/*/state.bin", flipIn(random, 0, 1)},
		{"a bit of every snapshot", "raft/snapshots/*/state.bin", flipIn(random, 0, 1)},
		{"all that is known of the snapshots", "raft/snapshots/*/meta.json", func([]byte) []byte { return nil }},
		{"both copies of the vote", "raft/vote", func(b []byte) []byte { b[40] ^= 1; b[4096+40] ^= 1; return b }},
	} {
		t.Run(damage.what, func(t *testing.T) {
			id := w.aFollower(t)
			cluster.Eventually(t, time.Minute, "two snapshots", func(context.Context) error {
				if all := w.files(t, id, "raft/snapshots/*/state.bin"); len(all) < 2 {
					return fmt.Errorf("there are %d", len(all))
				}
				return nil
			})
			w.Do(t, id, "stop")
			files := w.files(t, id, damage.files)
			if !strings.Contains(damage.what, "every") && !strings.Contains(damage.what, "all") && len(files) > 0 {
				files = files[len(files)-1:]
			}
			for _, path := range files {
				edit(t, path, damage.edit)
			}
			said := len(w.Log(t, id))
			w.Do(t, id, "start")
			w.agree(t)
			log := w.Log(t, id)[said:]
			if !strings.Contains(log, "damaged") {
				t.Error("the master says nothing of damage")
			}
			t.Logf("%d files changed; installed anew: %v", len(files), strings.Contains(log, "moved aside"))
			l.Await(t, 20)
		})
	}
	t.Log(l.Finish(t))
}

// files are those of a master whose names fit, in their order.
func (w *World) files(t *testing.T, id, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(w.DataDir(id), pattern))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(place(t, a), place(t, b)) })
	return all
}

// place of a file of the log or a snapshot among others: the index in its name.
func place(t *testing.T, path string) (index int) {
	t.Helper()
	if dir := filepath.Base(filepath.Dir(path)); strings.Contains(dir, "-") {
		path = strings.Split(dir, "-")[1]
	}
	index, _ = strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".log")) // others have none
	return index
}

// flipIn changes a bit of the part of a file that is used, between two shares of it.
func flipIn(r *rand.Rand, from, to float64) func([]byte) []byte {
	return func(b []byte) []byte {
		used := float64(len(bytes.TrimRight(b, "\x00")))
		b[int(used*from)+r.IntN(max(1, int(used*to)-int(used*from)))] ^= 1 << r.IntN(8)
		return b
	}
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamagedOnlyMaster: a master that knows no other refuses to start, says what to do, and destroys nothing.
func TestDamagedOnlyMaster(t *testing.T) {
	const id = "master-1"
	c := cluster.Start(t, cluster.Options{Name: "only", Masters: 1, Nodes: -1})
	w := &World{&cluster.Masters{Cluster: c, IDs: []string{id}, Kubes: []kubernetes.Interface{c.Kube}}}
	if _, err := c.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Do(t, id, "stop")
	path := w.files(t, id, "raft/log/*.log")[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(b []byte) []byte { b[200] ^= 4; return b })
	w.Do(t, id, "start")
	cluster.Eventually(t, 30*time.Second, "it says what to do", func(context.Context) error {
		if log := w.Log(t, id); !strings.Contains(log, "is damaged") || !strings.Contains(log, "mgr snapshot restore") {
			return errors.New("not yet")
		}
		return nil
	})
	if b, err := os.ReadFile(path); err != nil || len(b) != len(whole) || b[200] != whole[200]^4 {
		t.Errorf("the log was touched: %v", err)
	}
	w.Do(t, id, "stop")
	// With the bit as it was, and without the note, everything is there.
	if err := errors.Join(os.WriteFile(path, whole, 0o600), os.Remove(filepath.Join(w.DataDir(id), "raft", "reinstall"))); err != nil {
		t.Fatal(err)
	}
	w.Do(t, id, "start")
	w.write(t, "x", time.Now())
}

// TestFullDisks fills the disks of masters, small ones of their own, to the last byte: first the leader's, whose leadership goes to another,
// then all. Reads go on everywhere, also after a restart, writes are refused with a clear error, and go on when there is space.
func TestFullDisks(t *testing.T) {
	w := Beside(t, cluster.Options{Name: "full"})
	for _, id := range w.IDs {
		w.smallDisk(t, id)
	}
	l := w.StartLoad(t, 2, 8)
	l.Await(t, 50)
	lead := w.agree(t)
	fill(t, w.filler(lead.ID))
	cluster.Eventually(t, 30*time.Second, "another master leads", func(context.Context) error {
		if now := w.leads(t); now == "" || now == lead.ID {
			return fmt.Errorf("%q leads", now)
		}
		return nil
	})
	l.Await(t, 50)
	t.Log("the leader's disk is full: another leads, and writes go on")
	for _, id := range w.IDs {
		if id != lead.ID {
			fill(t, w.filler(id))
		}
	}
	cluster.Eventually(t, 30*time.Second, "writes are refused", func(ctx context.Context) error {
		_, err := w.Any().CoreV1().ConfigMaps(Namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "full-"}}, metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "full") {
			return fmt.Errorf("the answer is %v", err)
		}
		return nil
	})
	w.readable(t)
	w.Kill(t, w.IDs...)
	w.readable(t)
	t.Log("all disks are full: writes are refused, reads go on, also after all masters were killed")
	for _, id := range w.IDs {
		if err := os.Remove(w.filler(id)); err != nil {
			t.Fatal(err)
		}
	}
	l.Await(t, 50)
	t.Log(l.Finish(t))
}

func (w *World) filler(id string) string { return filepath.Join(w.DataDir(id), "raft", "filler") }

// smallDisk gives the log, vote and snapshots of a master a disk of their own.
func (w *World) smallDisk(t *testing.T, id string) {
	t.Helper()
	w.Do(t, id, "stop")
	dir := filepath.Join(w.DataDir(id), "raft")
	err := os.Rename(dir, dir+".was")
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		err = syscall.Mount("mgr-test", dir, "tmpfs", 0, "size=64m,mode=0700")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(os.CopyFS(dir, os.DirFS(dir+".was")), os.RemoveAll(dir+".was")); err != nil {
		t.Fatal(err)
	}
	w.Do(t, id, "start")
	w.agree(t)
}

// fill writes until a disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		if _, err = f.Write(block); err != nil && len(block) > 1 {
			block, err = block[:len(block)/2], nil
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// readable reads linearizably at every master.
func (w *World) readable(t *testing.T) {
	t.Helper()
	for _, id := range w.IDs {
		cluster.Eventually(t, 30*time.Second, id+" reads", func(ctx context.Context) error {
			_, err := w.At(id).CoreV1().Namespaces().Get(ctx, Namespace, metav1.GetOptions{})
			return err
		})
	}
}

// leads is the master that leads as any of them sees it; "" if none does.
func (w *World) leads(t *testing.T) string {
	t.Helper()
	members, err := w.Members(t.Context())
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(members, func(m admin.Member) bool { return m.Role == "leader" })
	if i < 0 {
		return ""
	}
	return members[i].ID
}
