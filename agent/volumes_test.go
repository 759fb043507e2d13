package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// A pod that mounts an image says why it waits while that cannot be pulled, starts when it can, and gives it back.
func TestImageVolume(t *testing.T) {
	r := newRig(t)
	var there atomic.Bool
	r.runtime.onPull = func(ref string) (Image, error) {
		if there.Load() {
			return Image{ID: "sha256:data", Names: []string{ref}}, nil
		}
		return Image{}, errors.New(ref + ": not found")
	}
	created := r.create(testPod("p", func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "data:1", PullPolicy: v1.PullIfNotPresent}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/data"}}
	}))
	r.waitReason("p", "ErrImagePull")
	r.sawEvent("Failed", `Failed to pull image "data:1": data:1: not found`)
	there.Store(true)
	r.wait("p", "the pod is ready", ready)
	_, spec, _ := r.runtime.last("p", "main")
	mount := spec.Mounts[0]
	if from, err := os.ReadFile(filepath.Join(mount.Source, "from")); err != nil || string(from) != "data:1" || mount.Destination != "/data" || !slices.Contains(mount.Options, "ro") {
		t.Errorf("mount %+v: %q %v", mount, from, err)
	}
	r.delete("p", 0)
	r.until("the image is unmounted and the directory gone", func() bool {
		_, err := os.Stat(r.agent.volumes.PodDir(string(created.UID)))
		return errors.Is(err, os.ErrNotExist) && slices.Contains(r.runtime.history(), "unmount image v")
	})
}
