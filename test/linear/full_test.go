package linear

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
)

// TestFullDataDirectory fills the disks of masters: a leader without space yields to one that has some and writes go on;
// without space anywhere writes are refused with a status that says so while reads go on; with space, writes go on.
func TestFullDataDirectory(t *testing.T) {
	w := newWorld(t, "full")
	for _, id := range w.IDs {
		w.onSmallDisk(t, id)
	}
	write := func(ctx context.Context, at kubernetes.Interface) error {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "full-"}, Data: map[string]string{"v": string(make([]byte, 2000))}}
		_, err := at.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{})
		return err
	}
	first, _ := w.Whole(t)
	w.Anywhere(t, "a write with space", write)

	w.fill(t, first.ID)
	cluster.Eventually(t, 30*time.Second, "the leader without space yields", func(ctx context.Context) error {
		now, _ := w.Whole(t)
		if now.ID == first.ID {
			return fmt.Errorf("%s still leads", first.ID)
		}
		return nil
	})
	w.Anywhere(t, "a write while two masters have space", write)

	for _, id := range w.IDs {
		w.fill(t, id)
	}
	for i, at := range w.Kubes {
		cluster.Eventually(t, 30*time.Second, "writes are refused for want of space", func(ctx context.Context) error {
			err := write(ctx, at)
			var status *apierrors.StatusError
			if errors.As(err, &status) && status.ErrStatus.Code == http.StatusInsufficientStorage {
				return nil
			}
			return fmt.Errorf("%s answers %w", w.IDs[i], err)
		})
		for range 5 {
			if _, err := at.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Errorf("%s: consistent read with full disks: %v", w.IDs[i], err)
			}
		}
	}
	for _, id := range w.IDs {
		if err := os.Remove(w.filler(id)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	w.Anywhere(t, "a write when there is space again", write)
	t.Logf("writes went on %v after there was space", time.Since(began).Round(time.Millisecond))
	w.Whole(t)
}

func (w *world) raftDir(id string) string { return filepath.Join(w.Dir, id, "raft") }
func (w *world) filler(id string) string  { return filepath.Join(w.raftDir(id), "filler") }

// onSmallDisk moves the log of a master to a disk of its own, in memory, until the test ends.
func (w *world) onSmallDisk(t *testing.T, id string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, keep := w.raftDir(id), filepath.Join(t.TempDir(), id)
	must(w.Hosts.Do(t.Context(), id, "stop"))
	must(os.CopyFS(keep, os.DirFS(dir)))
	must(syscall.Mount("mgr-"+w.Name, dir, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() {
		if err := w.Hosts.Do(context.Background(), id, "stop"); err != nil {
			t.Error(err)
		}
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err, syscall.Unmount(dir, syscall.MNT_DETACH))
		}
	})
	must(os.CopyFS(dir, os.DirFS(keep)))
	must(w.Hosts.Do(t.Context(), id, "start"))
	w.Whole(t)
}

// fill takes all space of a master's disk.
func (w *world) fill(t *testing.T, id string) {
	t.Helper()
	f, err := os.OpenFile(w.filler(id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
