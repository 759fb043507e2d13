package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"mgr/agent/env"
)

// bound puts a claim and its volume into the API.
func (w *world) bound(source v1.PersistentVolumeSource, change ...func(*v1.PersistentVolumeClaim, *v1.PersistentVolume)) {
	w.t.Helper()
	claim := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "claim-uid"},
		Spec:       v1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status:     v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound},
	}
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec:       v1.PersistentVolumeSpec{PersistentVolumeSource: source, ClaimRef: &v1.ObjectReference{Namespace: "ns", Name: "data", UID: "claim-uid"}},
	}
	for _, f := range change {
		f(claim, pv)
	}
	client := w.Client.(*fake.Clientset)
	if err := errors.Join(client.Tracker().Add(claim), client.Tracker().Add(pv)); err != nil {
		w.t.Fatal(err)
	}
}

func byClaim(readOnly bool) v1.Volume {
	return v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data", ReadOnly: readOnly}}}
}

func local(path string) v1.PersistentVolumeSource {
	return v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}}
}

func TestClaims(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.bound(local(dir))
	p := pod(byClaim(true))
	if got, want := w.mount(p)["v"], (Mount{Path: dir, ReadOnly: true}); got != want {
		t.Errorf("mount %+v, want %+v", got, want)
	}
	// From now on the pod needs no master for it: not another time, and not after a restart of the agent.
	w.Client.(*fake.Clientset).PrependReactor("get", "*", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no master")
	})
	if got := w.mount(p)["v"].Path; got != dir {
		t.Errorf("without masters the volume is at %q", got)
	}
	if err := w.Remove(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the volume went with the pod: %v", err)
	}
	if _, _, err := w.Mount(t.Context(), p); err == nil {
		t.Error("a removed pod's claim is still known")
	}
}

func TestClaimsThatCannotBeMounted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		source v1.PersistentVolumeSource
		change func(*v1.PersistentVolumeClaim, *v1.PersistentVolume)
		want   string
	}{
		"pending": {change: func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Status.Phase = v1.ClaimPending },
			want: "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC ns/data: PVC is not bound"},
		"other claim": {change: func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) { pv.Spec.ClaimRef.UID = "x" },
			want: "does not point to claim.UID claim-uid"},
		"missing path":  {source: local(file + "/no"), want: "not a directory"},
		"missing path2": {source: local(file + "no"), want: "does not exist"},
		"no device": {source: local(file), want: "is no block device",
			change: func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) {
				pv.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock)
			}},
		"other node": {source: local(file), want: "node affinity",
			change: func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) {
				pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
					{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "host", Operator: v1.NodeSelectorOpIn, Values: []string{"b"}}}}}}}
			}},
		"no driver": {source: v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{}}, want: `volume "pv": this node has no driver for volumes of type nfs`},
		"hostPath of another type": {source: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: file, Type: ptr.To(v1.HostPathDirectory)}},
			want: "hostPath type check failed: " + file + " is not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.NodeLabels = func() map[string]string { return map[string]string{"host": "a"} }
			change := c.change
			if change == nil {
				change = func(*v1.PersistentVolumeClaim, *v1.PersistentVolume) {}
			}
			w.bound(c.source, change)
			if _, _, err := w.Mount(t.Context(), pod(byClaim(false))); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
	w := newWorld(t)
	_, _, err := w.Mount(t.Context(), pod(byClaim(false)))
	if err == nil || !strings.Contains(err.Error(), `failed to fetch PVC from API server: persistentvolumeclaims "data" not found`) || !apierrors.IsNotFound(err) {
		t.Errorf("missing claim: %v", err)
	}
}

// A block volume is given as a device and only as that.
func TestBlockVolumes(t *testing.T) {
	w := newWorld(t)
	device := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 250))); err != nil {
		t.Fatal(err)
	}
	w.bound(local(device), func(_ *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) {
		pv.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock)
	})
	p := pod(byClaim(false))
	p.Spec.Containers = []v1.Container{{Name: "c", VolumeMounts: []v1.VolumeMount{{Name: "v", MountPath: "/data"}}}}
	if _, _, err := w.Mount(t.Context(), p); err == nil || !strings.Contains(err.Error(), "volume v has volumeMode Block, but is specified in volumeMounts") {
		t.Errorf("mounted: %v", err)
	}
	p.Spec.Containers[0].VolumeMounts, p.Spec.Containers[0].VolumeDevices = nil, []v1.VolumeDevice{{Name: "v", DevicePath: "/dev/data"}}
	if got, want := w.mount(p)["v"], (Mount{Path: device, Device: true}); got != want {
		t.Errorf("mount %+v, want %+v", got, want)
	}
}

func TestFSGroupOfLocalVolumes(t *testing.T) {
	for policy, again := range map[v1.PodFSGroupChangePolicy]bool{v1.FSGroupChangeAlways: true, v1.FSGroupChangeOnRootMismatch: false} {
		w := newWorld(t)
		dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
		err := errors.Join(os.Mkdir(dir+"/sub", 0o700), os.WriteFile(dir+"/sub/file", nil, 0o600), os.WriteFile(outside, nil, 0o600), os.Symlink(outside, dir+"/sub/link"))
		if err != nil {
			t.Fatal(err)
		}
		w.bound(local(dir))
		give := func() {
			p := pod(byClaim(false))
			p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000), FSGroupChangePolicy: &policy}
			w.mount(p)
			if err := w.Unmount(t.Context(), "u"); err != nil {
				t.Fatal(err)
			}
		}
		give()
		for path, mode := range map[string]uint32{dir: 0o2775, dir + "/sub": 0o2770, dir + "/sub/file": 0o660} {
			if st := stat(t, path); st.Gid != 2000 || st.Mode&0o7777 != mode {
				t.Errorf("%s: %s has group %d and mode %o, want %o", policy, path, st.Gid, st.Mode&0o7777, mode)
			}
		}
		if st := stat(t, outside); st.Gid == 2000 || st.Mode&0o777 != 0o600 {
			t.Errorf("%s: what a link points to got group %d and mode %o", policy, st.Gid, st.Mode)
		}
		if err := os.Chmod(dir+"/sub/file", 0o600); err != nil {
			t.Fatal(err)
		}
		give()
		if st := stat(t, dir+"/sub/file"); (st.Mode&0o777 == 0o660) != again {
			t.Errorf("%s: the second pod found mode %o", policy, st.Mode&0o777)
		}
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	other := t.TempDir()
	err := errors.Join(os.WriteFile(dir+"/a", make([]byte, 100<<10), 0o644), os.Link(dir+"/a", dir+"/b"), os.MkdirAll(dir+"/deep/er", 0o755),
		os.WriteFile(dir+"/deep/er/c", make([]byte, 50<<10), 0o644), os.Mkdir(dir+"/mounted", 0o755), os.Symlink("/usr", dir+"/link"),
		os.WriteFile(other+"/big", make([]byte, 1<<20), 0o644), unix.Mount(other, dir+"/mounted", "", unix.MS_BIND, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/mounted", unix.MNT_DETACH)
	used, err := Usage(dir)
	if err != nil || used.Bytes < 150<<10 || used.Bytes > 250<<10 || used.Inodes > 8 {
		t.Errorf("used %+v %v", used, err)
	}
	memory := t.TempDir()
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(memory, unix.MNT_DETACH)
	if err := os.WriteFile(memory+"/x", make([]byte, 200<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	if used, err := Usage(memory); err != nil || used.Bytes != 200<<10 {
		t.Errorf("a tmpfs uses %+v %v", used, err)
	}
}

func checkMemorySize(t *testing.T, w *world, own, first, second, node, want string) {
	t.Helper()
	list := func(n string) v1.ResourceList {
		if n == "" {
			return nil
		}
		return v1.ResourceList{v1.ResourceMemory: resource.MustParse(n)}
	}
	w.Facts = func(*v1.Pod) env.Facts { return env.Facts{Allocatable: list(node)} }
	p := pod()
	for _, limit := range []string{first, second} {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Resources: v1.ResourceRequirements{Limits: list(limit)}})
	}
	e := &v1.EmptyDirVolumeSource{}
	if own != "" {
		e.SizeLimit = ptr.To(resource.MustParse(own))
	}
	if got, want := w.memorySize(p, e), resource.MustParse(want); got != want.Value() {
		t.Errorf("%d bytes, want %v", got, &want)
	}
}

func TestMemorySize(t *testing.T) {
	w := newWorld(t)
	for i, c := range []struct{ own, first, second, node, want string }{
		{node: "8Gi", want: "8Gi"},
		{node: "8Gi", own: "1Gi", want: "1Gi"},
		{node: "8Gi", own: "9Gi", want: "8Gi"},
		{node: "8Gi", first: "1Gi", want: "8Gi"}, // the second container may take what it likes
		{node: "8Gi", first: "1Gi", second: "2Gi", want: "3Gi"},
		{node: "8Gi", first: "1Gi", second: "2Gi", own: "100Mi", want: "100Mi"},
		{own: "100Mi", want: "100Mi"},
		{want: "0"},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) { checkMemorySize(t, w, c.own, c.first, c.second, c.node, c.want) })
	}
}
