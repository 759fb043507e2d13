package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"mgr/test/cluster"
)

// What the pod sees of an image, a config map, memory, and a tree of mounts that is read-only to its leaves.
func TestVolumesOfAPod(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	_, err := s.Kube.CoreV1().ConfigMaps(s.Namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"key": "1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := cluster.Busybox("p", "exec sleep 3600")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: cluster.BusyboxImage, PullPolicy: corev1.PullIfNotPresent}}},
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("1Mi"))}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/dev"}}},
	}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "image", MountPath: "/image"}, {Name: "image", MountPath: "/bin-of-image", SubPath: "bin"}, {Name: "config", MountPath: "/config"}, {Name: "memory", MountPath: "/memory"},
		{Name: "host", MountPath: "/tree", ReadOnly: true, RecursiveReadOnly: ptr.To(corev1.RecursiveReadOnlyEnabled)},
	}
	made := s.Run(p)
	for command, want := range map[string]string{
		"ls /image/bin/busybox /bin-of-image/busybox":                            "/bin-of-image/busybox\n/image/bin/busybox\n",
		"touch /image/x 2>&1":                                                    "touch: /image/x: Read-only file system\n",
		"cat /config/key; touch /config/x 2>&1":                                  "1touch: /config/x: Read-only file system\n",
		"stat -c %g /memory /config/key":                                         "2000\n2000\n",
		"dd if=/dev/zero of=/memory/big bs=1M count=2 2>&1 | grep -c 'No space'": "1\n",
		"touch /tree/shm/x 2>&1":                                                 "touch: /tree/shm/x: Read-only file system\n",
	} {
		if out := s.Exec("p", "main", "sh", "-c", command); out.Stdout != want {
			t.Errorf("%s: %q, want %q", command, out.Stdout, want)
		}
	}
	mounts := cluster.StatusOf(made, "main").VolumeMounts
	if len(mounts) < 5 || ptr.Deref(mounts[4].RecursiveReadOnly, "") != corev1.RecursiveReadOnlyEnabled {
		t.Errorf("mounts in the status: %+v", mounts)
	}
	if _, err := s.Kube.CoreV1().ConfigMaps(s.Namespace).Update(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"key": "2"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, 20*time.Second, "the container sees the new content", func(context.Context) error {
		if out := s.Exec("p", "main", "cat", "/config/key"); out.Stdout != "2" {
			return fmt.Errorf("it sees %q", out.Stdout)
		}
		return nil
	})
	dir := shared.Node(made.Spec.NodeName).PodDir(string(made.UID))
	s.Delete("p", 1)
	s.AwaitGone("p")
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(text), dir) {
		t.Errorf("mounts of the pod were left (%v)", err)
	}
}

// A claim that waits for its consumer: the pod goes to the node where a volume is, which it gets, and which stays when claim
// and pod have gone.
func TestClaimsOfLocalVolumes(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	dir, name := t.TempDir(), s.Namespace
	ctx := t.Context()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	once := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: once, StorageClassName: name,
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"node-2"}}}}}}},
	}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: once, StorageClassName: &name, Resources: corev1.VolumeResourceRequirements{Requests: size}}}
	p := cluster.Busybox("p", "echo kept > /data/file; exec sleep 3600")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), FSGroup: ptr.To[int64](3000)}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}
	s.Create(p)
	s.AwaitEvent("p", "FailedScheduling", `persistentvolumeclaim "data" not found`)
	_, err1 := s.Kube.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
	_, err2 := s.Kube.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	_, err3 := s.Kube.CoreV1().PersistentVolumeClaims(s.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(s.Kube.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{}), s.Kube.StorageV1().StorageClasses().Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	})
	if got := s.Await("p", "runs", cluster.Ready); got.Spec.NodeName != "node-2" {
		t.Errorf("the pod is on %s", got.Spec.NodeName)
	}
	cluster.Eventually(t, 10*time.Second, "the pod writes to the volume", func(context.Context) error {
		_, err := os.ReadFile(filepath.Join(dir, "file"))
		return err
	})
	s.Delete("p", 1)
	s.AwaitGone("p")
	if err := s.Kube.CoreV1().PersistentVolumeClaims(s.Namespace).Delete(ctx, "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, 10*time.Second, "the volume is released", func(ctx context.Context) error {
		_, err := s.Kube.CoreV1().PersistentVolumeClaims(s.Namespace).Get(ctx, "data", metav1.GetOptions{})
		got, err2 := s.Kube.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
		if err2 != nil || !apierrors.IsNotFound(err) || got.Status.Phase != corev1.VolumeReleased {
			return fmt.Errorf("claim %v, volume %v", err, err2)
		}
		return nil
	})
	if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "kept\n" {
		t.Errorf("what the pod wrote is %q %v", text, err)
	}
}

// What one pod mounts in a shared directory reaches the others as their mounts say.
func TestMountPropagation(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	private, dir := t.TempDir(), t.TempDir()
	// The node's root may or may not be a shared mount.
	err := errors.Join(unix.Mount("tmpfs", dir, "tmpfs", 0, ""), unix.Mount("", dir, "", unix.MS_SHARED, ""),
		unix.Mount("tmpfs", private, "tmpfs", 0, ""), unix.Mount("", private, "", unix.MS_PRIVATE, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(unix.Unmount(dir, unix.MNT_DETACH), unix.Unmount(private, unix.MNT_DETACH)) })
	pod := func(name, dir string, mode corev1.MountPropagationMode) *corev1.Pod {
		p := cluster.Busybox(name, "exec sleep 3600")
		p.Spec.NodeName = "node-1"
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", MountPropagation: &mode}}
		return p
	}
	s.Create(pod("refused", private, corev1.MountPropagationBidirectional))
	s.Run(pod("both", dir, corev1.MountPropagationBidirectional))
	s.Run(pod("down", dir, corev1.MountPropagationHostToContainer))
	s.Run(pod("none", dir, corev1.MountPropagationNone))
	s.Await("refused", "says why it is not made", func(p *corev1.Pod) bool {
		w := cluster.StatusOf(p, "main").State.Waiting
		return w != nil && strings.Contains(w.Message, "is not a shared mount")
	})
	for _, name := range []string{"both", "down", "none"} {
		if out := s.Exec(name, "main", "sh", "-c", "mkdir -p /v/"+name+" && mount -t tmpfs tmpfs /v/"+name+" && echo "+name+" > /v/"+name+"/file"); out.Code != 0 {
			t.Fatalf("%s: %+v", name, out)
		}
	}
	for name, want := range map[string]string{"both": "both", "down": "both down", "none": "none"} {
		out := s.Exec(name, "main", "sh", "-c", "cat /v/*/file 2>/dev/null")
		if got := strings.Join(strings.Fields(out.Stdout), " "); got != want {
			t.Errorf("%s sees %q, want %q", name, got, want)
		}
	}
	s.Exec("both", "main", "umount", "/v/both")
}
