package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

func emptyDir() v1.Volume {
	return v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}
}

// swap exchanges two names as fast as it can until the test says stop, as a hostile container does.
func swap(t *testing.T, a, b string) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("swapping: %v", err)
				return
			}
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { close(quit); <-ended }) }
	t.Cleanup(stop)
	return stop
}

// A container exchanges a directory of its volume with a link that leads out, while subPaths below it are opened and made.
func TestSubPathNeverLeavesItsVolume(t *testing.T) {
	for name, target := range map[string]func(outside, root string) string{
		"absolute": func(outside, _ string) string { return outside },
		"relative": func(outside, root string) string {
			rel, err := filepath.Rel(root, outside)
			if err != nil {
				t.Fatal(err)
			}
			return rel
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, outside := newWorld(t), t.TempDir()
			root := w.mount(pod(emptyDir()))["v"].Path
			if err := os.Mkdir(outside+"/sub", 0o700); err != nil {
				t.Fatal(err)
			}
			for path, text := range map[string]string{outside + "/sub/who": "host", root + "/dir/sub/who": "pod"} {
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(target(outside, root), root+"/link"); err != nil {
				t.Fatal(err)
			}
			before := stat(t, outside)
			stop := swap(t, root+"/dir", root+"/link")
			opened, refused := 0, 0
			for i := 0; opened < 50 || refused < 50; i++ {
				if i > 100_000 {
					t.Fatalf("opened %d, refused %d: the race did not happen", opened, refused)
				}
				path, err := w.SubPath("u", "c", 0, root, "dir/sub", true)
				if err != nil {
					refused++
					continue
				}
				opened++
				if who, err := os.ReadFile(path + "/who"); err != nil || string(who) != "pod" {
					t.Fatalf("the subPath shows %q %v", who, err)
				}
			}
			for i := range 200 {
				_, _ = w.SubPath("u", "c", 1, root, "dir/made"+string(rune('a'+i%26)), true)
			}
			stop()
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) != 1 {
				t.Errorf("outside of the volume there is %v %v", entries, err)
			}
			if after := stat(t, outside); after.Mode != before.Mode || after.Uid != before.Uid || after.Gid != before.Gid {
				t.Errorf("mode or owner outside of the volume was changed: %o", after.Mode)
			}
		})
	}
}

// The directory that is made for a subPath is exchanged with a link before its mode and owner are set.
func TestMakingASubPathTouchesNothingElse(t *testing.T) {
	w, outside := newWorld(t), t.TempDir()
	root := w.mount(pod(emptyDir()))["v"].Path
	if err := os.Chmod(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	// The name itself comes and goes as a link: whenever it is missing, the agent makes it.
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			default:
				_ = os.RemoveAll(root + "/made")
				_ = os.Symlink(outside, root+"/made")
				_ = os.Remove(root + "/made")
			}
		}
	}()
	for range 3000 {
		_, _ = w.SubPath("u", "c", 0, root, "made", true)
	}
	close(quit)
	<-ended
	if st := stat(t, outside); st.Mode&0o777 != 0o700 {
		t.Errorf("a directory outside of the volume got mode %o", st.Mode&0o777)
	}
}

func TestSubPathOfASocketAndOfARestart(t *testing.T) {
	w := newWorld(t)
	root := w.mount(pod(emptyDir()))["v"].Path
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: root + "/s"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		path, err := w.SubPath("u", "c", 0, root, "s", true)
		if err != nil {
			t.Fatal(err)
		}
		if st := stat(t, path); st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			t.Errorf("mode %o", st.Mode)
		}
	}
	if points, err := mountsBelow(w.PodDir("u")); err != nil || len(points) != 1 {
		t.Errorf("after three starts there are the mounts %v %v", points, err)
	}
}

// What is mounted in a pod's directory and cannot be unmounted is not deleted with it.
func TestRemoveSparesWhatIsMounted(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/pod/a/b", 0o755), os.WriteFile(data+"/precious", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(data, dir+"/pod/a/b", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err := removeTree(dir + "/pod")
	if err == nil || !strings.Contains(err.Error(), "still mounted on b") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(data + "/precious"); err != nil {
		t.Fatalf("data of a mounted volume were deleted: %v", err)
	}
	if err := unmountBelow(dir + "/pod"); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir + "/pod"); err != nil {
		t.Fatal(err)
	}
}

// A pod's directory is found below the real path of the agent's directory, which may itself be reached by a link.
func TestUnmountThroughALink(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/real/pod/tmp", 0o755), os.Symlink("real", dir+"/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir+"/real/pod/tmp", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := unmountBelow(dir + "/link/pod"); err != nil {
		t.Error(err)
	}
	if points, err := mountsBelow(dir); err != nil || len(points) > 0 {
		_ = unix.Unmount(dir+"/real/pod/tmp", 0)
		t.Errorf("still mounted: %v %v", points, err)
	}
}

func TestRemoveOfATreeDeeperThanDescriptors(t *testing.T) {
	dir := t.TempDir() + "/pod"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(dir, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if err := unix.Mkdirat(at, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, "d", unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	if err := removeTree(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tree is still there: %v", err)
	}
}
