package volume

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
	authv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
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

// source is an API that can be changed and taken away.
type source struct {
	maps     map[string]map[string]string
	bundles  []*certificatesv1.ClusterTrustBundle
	requests map[string]*certificatesv1.PodCertificateRequest
	down     error
}

func (s *source) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if s.down != nil {
		return nil, s.down
	}
	if s.maps[name] == nil {
		return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
	}
	return &v1.ConfigMap{Data: s.maps[name]}, nil
}

func (s *source) Secret(ctx context.Context, ns, name string) (*v1.Secret, error) {
	cm, err := s.ConfigMap(ctx, ns, name)
	if err != nil {
		return nil, err
	}
	secret := &v1.Secret{Data: map[string][]byte{}}
	for k, v := range cm.Data {
		secret.Data[k] = []byte(v)
	}
	return secret, nil
}

type world struct {
	*Manager
	t        *testing.T
	source   *source
	tokens   int
	tokenErr error
	now      time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, source: &source{maps: map[string]map[string]string{}}, now: time.Now()}
	client := fake.NewClientset()
	client.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		if w.tokenErr != nil {
			return true, nil, w.tokenErr
		}
		w.tokens++
		return true, &authv1.TokenRequest{Status: authv1.TokenRequestStatus{Token: fmt.Sprintf("token-%d", w.tokens), ExpirationTimestamp: metav1.NewTime(w.now.Add(time.Hour))}}, nil
	})
	w.Manager = &Manager{Dir: t.TempDir(), Client: client, Objects: w.source, Facts: func(*v1.Pod) env.Facts { return env.Facts{NodeName: "n1"} }, Now: func() time.Time { return w.now }}
	t.Cleanup(func() {
		if err := w.Remove(context.Background(), "u"); err != nil {
			t.Error(err)
		}
		if entries, _ := os.ReadDir(w.Dir); len(entries) != 0 {
			t.Errorf("Remove left %v", entries)
		}
	})
	return w
}

func pod(volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "x"}}, Spec: v1.PodSpec{Volumes: volumes}}
}

func (w *world) mount(p *v1.Pod) Mounts {
	w.t.Helper()
	m, _, err := w.Mount(w.t.Context(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) file(path, want string, mode os.FileMode) {
	w.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || string(b) != want {
		w.t.Errorf("%s: %q %v, want %q", path, b, err, want)
		return
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
		w.t.Errorf("%s: mode %v, want %v", path, info.Mode().Perm(), mode)
	}
}

func cm(name string, change ...func(*v1.ConfigMapVolumeSource)) v1.Volume {
	s := &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}}
	for _, f := range change {
		f(s)
	}
	return v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: s}}
}

func TestConfigMapFollowsItsObject(t *testing.T) {
	w := newWorld(t)
	w.source.maps["c"] = map[string]string{"a": "1", "b": "2"}
	p := pod(cm("c"))
	dir := w.mount(p)["v"].Path
	w.file(dir+"/a", "1", 0o644)
	data, _ := os.Readlink(dir + "/..data")
	w.mount(p)
	if again, _ := os.Readlink(dir + "/..data"); again != data {
		t.Error("the same content was written again")
	}
	w.source.maps["c"] = map[string]string{"b": "3", "c": "4"}
	w.mount(p)
	w.file(dir+"/b", "3", 0o644)
	w.file(dir+"/c", "4", 0o644)
	if _, err := os.Lstat(dir + "/a"); !os.IsNotExist(err) {
		t.Error("a removed key is still there")
	}
	if _, err := os.Stat(filepath.Join(dir, data)); !os.IsNotExist(err) {
		t.Error("the outdated data are still there")
	}
}

func TestReadersNeverSeeAMixture(t *testing.T) {
	dir := t.TempDir()
	put := func(v string) error {
		return Project(dir, map[string]File{"a": {Data: []byte(v), Mode: 0o644}, "b/c": {Data: []byte(v), Mode: 0o644}}, -1, time.Now())
	}
	if err := put("0"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for i := range 200 {
			if err := put(fmt.Sprint(i)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
		// One open of ..data pins one generation.
		at, err := os.Open(dir + "/..data")
		if errors.Is(err, os.ErrNotExist) {
			continue // it was swapped between reading the link and following it
		}
		if err != nil {
			t.Fatal(err)
		}
		a, errA := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/a", at.Fd()))
		c, errC := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/b/c", at.Fd()))
		at.Close()
		if errA == nil && errC == nil && string(a) != string(c) {
			t.Fatalf("a mixture: %s and %s", a, c)
		}
	}
}

func TestItemsModesAndOptional(t *testing.T) {
	w := newWorld(t)
	w.source.maps["c"] = map[string]string{"a": "1"}
	p := pod(cm("c", func(s *v1.ConfigMapVolumeSource) {
		s.DefaultMode = ptr.To[int32](0o400)
		s.Items = []v1.KeyToPath{{Key: "a", Path: "deep/er"}, {Key: "a", Path: "x", Mode: ptr.To[int32](0o777)}}
	}))
	dir := w.mount(p)["v"].Path
	w.file(dir+"/deep/er", "1", 0o400)
	w.file(dir+"/x", "1", 0o777)

	_, _, err := w.Mount(t.Context(), pod(cm("none")))
	if want := `MountVolume.SetUp failed for volume "v" : configmap "none" not found`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, _, err := w.Mount(t.Context(), pod(cm("c", func(s *v1.ConfigMapVolumeSource) { s.Items = []v1.KeyToPath{{Key: "no", Path: "x"}} }))); err == nil || !strings.Contains(err.Error(), "references non-existent configmap key: no") {
		t.Errorf("missing key: %v", err)
	}
	if _, _, err := w.Mount(t.Context(), pod(cm("c", func(s *v1.ConfigMapVolumeSource) { s.Items = []v1.KeyToPath{{Key: "a", Path: "../../escape"}} }))); err == nil {
		t.Error("a path out of the volume was accepted")
	}
	w.mount(pod(cm("none", func(s *v1.ConfigMapVolumeSource) { s.Optional = ptr.To(true) })))
}

func TestOldContentSurvivesTheMasters(t *testing.T) {
	w := newWorld(t)
	w.source.maps["c"] = map[string]string{"a": "1"}
	p := pod(cm("c"))
	dir := w.mount(p)["v"].Path
	w.source.down = errors.New("no master")
	_, next, err := w.Mount(t.Context(), p)
	if err != nil || next.IsZero() {
		t.Errorf("next %v, %v", next, err)
	}
	w.file(dir+"/a", "1", 0o644)
}

func TestProjected(t *testing.T) {
	w := newWorld(t)
	w.source.maps["c"] = map[string]string{"ca.crt": "CA"}
	p := pod(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](3600)}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "c"}}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
	}}}})
	m, next, err := w.Mount(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	dir := m["v"].Path
	w.file(dir+"/token", "token-1", 0o644)
	w.file(dir+"/ca.crt", "CA", 0o644)
	w.file(dir+"/labels", `app="x"`, 0o644)
	if want := w.now.Add(48 * time.Minute); next.Sub(want).Abs() > time.Second {
		t.Errorf("refresh at %v, want %v", next, want)
	}
	if kind := fsType(t, dir); kind != unix.TMPFS_MAGIC {
		t.Errorf("the token is on file system %x", kind)
	}
	w.mount(p)
	w.file(dir+"/token", "token-1", 0o644)
	w.now = next
	w.mount(p)
	w.file(dir+"/token", "token-2", 0o644)
	w.now, w.tokenErr = w.now.Add(50*time.Minute), errors.New("no master")
	w.mount(p)
	w.file(dir+"/token", "token-2", 0o644)
}

func TestTokenOwner(t *testing.T) {
	user, group := ptr.To[int64](1234), ptr.To[int64](2000)
	for name, c := range map[string]struct {
		sc       v1.PodSecurityContext
		mode     os.FileMode
		uid, gid uint32
	}{
		"one user": {v1.PodSecurityContext{RunAsUser: user}, 0o600, 1234, 0},
		"a group":  {v1.PodSecurityContext{FSGroup: group}, 0o640, 0, 2000},
		"both":     {v1.PodSecurityContext{RunAsUser: user, FSGroup: group}, 0o640, 1234, 2000},
		"neither":  {v1.PodSecurityContext{}, 0o644, 0, 0},
	} {
		w := newWorld(t)
		p := pod(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}}}}}})
		p.Spec.Containers = []v1.Container{{Name: "a"}}
		p.Spec.SecurityContext = &c.sc
		dir := w.mount(p)["v"].Path
		w.file(dir+"/token", "token-1", c.mode)
		if st := stat(t, dir+"/token"); st.Uid != c.uid || st.Gid != c.gid {
			t.Errorf("%s: owner %d, group %d", name, st.Uid, st.Gid)
		}
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func fsType(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Type
}

func TestEmptyDir(t *testing.T) {
	w := newWorld(t)
	p := pod(
		v1.Volume{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		v1.Volume{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("1Mi"))}}},
	)
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
	m := w.mount(p)
	if info, _ := os.Stat(m["disk"].Path); info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSetgid == 0 {
		t.Errorf("mode %v", info.Mode())
	}
	if st := stat(t, m["disk"].Path); st.Gid != 2000 {
		t.Errorf("group %d", st.Gid)
	}
	if kind := fsType(t, m["memory"].Path); kind != unix.TMPFS_MAGIC {
		t.Errorf("file system %x", kind)
	}
	if err := os.WriteFile(m["memory"].Path+"/big", make([]byte, 2<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing beyond the limit: %v", err)
	}
	if err := os.WriteFile(m["disk"].Path+"/kept", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.mount(p)
	if _, err := os.Stat(m["disk"].Path + "/kept"); err != nil {
		t.Error("a second mount lost the content")
	}
	if err := w.Unmount(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if points, _ := mountsBelow(w.Dir); len(points) != 0 {
		t.Errorf("still mounted: %v", points)
	}
}

func TestHostPathTypes(t *testing.T) {
	w := newWorld(t)
	base := t.TempDir()
	if err := os.WriteFile(base+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		kind v1.HostPathType
		want string
	}{
		{base, v1.HostPathDirectory, ""}, {base + "/file", v1.HostPathFile, ""},
		{base + "/made", v1.HostPathDirectoryOrCreate, ""}, {base + "/made.txt", v1.HostPathFileOrCreate, ""}, {"/dev/null", v1.HostPathCharDev, ""},
		{base + "/file", v1.HostPathDirectory, "is not a directory"}, {base, v1.HostPathFile, "is not a file"}, {base + "/nothing", v1.HostPathDirectory, "is not a directory"}, {base + "/nothing", v1.HostPathUnset, ""}, {base + "/nothing", v1.HostPathDirectory, ""},
		{"/dev/null", v1.HostPathBlockDev, "is not a block device"}, {base + "/file", v1.HostPathSocket, "is not a socket file"},
	} {
		_, _, err := w.Mount(t.Context(), pod(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: c.path, Type: &c.kind}}}))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s as %q: %v, want %q", c.path, c.kind, err, c.want)
		}
	}
}

func TestSubPath(t *testing.T) {
	w := newWorld(t)
	root := w.mount(pod(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}))["v"].Path
	if err := os.WriteFile(root+"/file", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	secret := t.TempDir()
	for name, target := range map[string]string{"absolute": secret, "relative": "../../../../../../etc", "inside": "file"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for sub, ok := range map[string]bool{
		"file": true, "inside": true, "new/deep": true, "absolute": false, "relative": false, "absolute/x": false, "../x": false, "/etc": false, "a/../../x": false,
	} {
		path, err := w.SubPath("u", "c", 0, root, sub, true)
		if (err == nil) != ok {
			t.Errorf("subPath %q: %v", sub, err)
		}
		if err == nil && sub != "new/deep" {
			w.file(path, "x", 0o644)
		}
	}
	path, err := w.SubPath("u", "c", 0, root, "new/deep", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"/through", []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.file(root+"/new/deep/through", "y", 0o644)
	if st := stat(t, root+"/new/deep"); st.Mode&0o777 != 0o777 {
		t.Errorf("a made subPath has mode %o", st.Mode&0o777)
	}
}

func TestUnsupportedKindSaysSo(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.Mount(t.Context(), pod(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{}}}))
	var e *Error
	if !errors.As(err, &e) || e.Volume != "v" || !strings.Contains(err.Error(), "not supported by this node") {
		t.Errorf("error %v", err)
	}
}
