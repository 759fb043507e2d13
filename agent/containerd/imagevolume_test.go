package containerd_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"mgr/agent/image"
)

// An image's files are mounted with all layers merged, stay when the image is removed, and leave nothing behind.
func TestMountImage(t *testing.T) {
	n := newNode(t)
	two := small("docker.io/mgr/volume:1", "lower")
	two.Layers = append(two.Layers, image.Layer{{Path: "text", Mode: 0o644, Data: []byte("upper")}, {Path: "other", Mode: 0o600, Data: []byte("x")}})
	for _, img := range []image.Image{small("docker.io/mgr/single:1", "only"), two} {
		if _, err := n.Import(t.Context(), bytes.NewReader(archive(t, oci, img))); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]string{"docker.io/mgr/single:1": "only", "docker.io/mgr/volume:1": "upper"} {
		path := filepath.Join(n.dir, "volume "+filepath.Base(ref))
		if err := os.Mkdir(path, 0o750); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second as an agent does that died after the first
			if err := n.MountImage(t.Context(), ref, path); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.RemoveImage(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(path + "/text"); err != nil || string(text) != want {
			t.Errorf("%s shows %q %v", ref, text, err)
		}
		if err := os.WriteFile(path+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing to %s: %v", ref, err)
		}
		for range 2 {
			if err := n.UnmountImage(t.Context(), path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Errorf("%s is not empty: %v", ref, err)
		}
	}
	if err := n.MountImage(t.Context(), "none:1", n.dir); err == nil {
		t.Error("an image that is not there was mounted")
	}
}
