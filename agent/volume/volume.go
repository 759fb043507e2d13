// Package volume makes a pod's volumes on the node: emptyDir, hostPath, and the kinds that project API objects into files.
//
// Everything lives below Dir/<pod uid>, mounts included, so that Remove can clean up after a pod whose specification is
// long gone. Mount may be called again at any time: it brings the content of projected volumes up to date and leaves the
// rest alone. When the masters do not answer, content that is already there stays.
package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"mgr/agent/env"
)

// retryRefresh: how long old content stands before the masters are asked again.
const retryRefresh = 10 * time.Second

// subPaths is the directory, in a pod's, of what its containers' subPaths are bound to.
const subPaths = "subpaths"

// Manager makes volumes. Fill in the exported fields before the first use.
type Manager struct {
	Dir     string // has one directory for each pod UID
	Client  kubernetes.Interface
	Objects Objects
	Facts   func(*v1.Pod) env.Facts
	Now     func() time.Time // nil: time.Now
	// NodeLabels are this node's, to be compared with what a persistent volume demands; nil: it is not.
	NodeLabels func() map[string]string
	// MountImage gets the image of a volume and mounts its files at path; UnmountImage reverses it, and finds nothing to do
	// if it has been done.
	MountImage   func(ctx context.Context, pod *v1.Pod, v *v1.Volume, path string) error
	UnmountImage func(ctx context.Context, path string) error

	// NodeUID is that of this node's object, of which requests for certificates tell.
	NodeUID func() (types.UID, error)
	// Warn makes an event about a pod; nil: nobody is told.
	Warn func(pod *v1.Pod, reason, message string)

	mu          sync.Mutex
	tokens      map[string]token
	credentials map[string]*credential
}

// Mount is a volume of a pod on this node.
type Mount struct {
	Path     string // what containers get: a directory or a file, of a block volume the device
	ReadOnly bool   // whatever the container's mount says
	Device   bool   // Path is a block device, to be given as such
}

// Mounts are a pod's volumes by name.
type Mounts map[string]Mount

func (m *Manager) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

// Error says which volume could not be made.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	var early *unprocessed
	if errors.As(e.Err, &early) {
		return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%[1]s]: %v", e.Volume, e.Err)
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// PodDir is the pod's directory.
func (m *Manager) PodDir(uid string) string { return filepath.Join(m.Dir, uid) }

// Mount makes or refreshes all volumes of pod. next, if not zero, is when Mount should be called again because a token
// grows old. Errors are of type *Error, joined.
func (m *Manager) Mount(ctx context.Context, pod *v1.Pod) (mounts Mounts, next time.Time, err error) {
	m.mu.Lock()
	if m.tokens == nil {
		m.tokens, m.credentials = map[string]token{}, map[string]*credential{}
	}
	m.mu.Unlock()
	mounts = Mounts{}
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		mount, again, err := m.mount(ctx, pod, v)
		if err != nil {
			errs = append(errs, &Error{Volume: v.Name, Err: err})
			continue
		}
		mounts[v.Name] = mount
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
	}
	return mounts, next, errors.Join(errs...)
}

func (m *Manager) mount(ctx context.Context, pod *v1.Pod, v *v1.Volume) (mount Mount, next time.Time, err error) {
	switch {
	case v.HostPath != nil:
		return Mount{Path: v.HostPath.Path}, next, checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		mount, err = m.emptyDir(pod, v)
		return mount, next, err
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		mount, err = m.claim(ctx, pod, v)
		return mount, next, err
	case v.Image != nil:
		mount, err = m.image(ctx, pod, v)
		return mount, next, err
	}
	return m.project(ctx, pod, v)
}

// image mounts an image's files, once: new content of a tag that moves comes with the next pod.
func (m *Manager) image(ctx context.Context, pod *v1.Pod, v *v1.Volume) (Mount, error) {
	mount := Mount{Path: m.path(pod, "image", v.Name), ReadOnly: true}
	if v.Image.Reference == "" {
		return mount, errors.New("the image volume has no reference")
	}
	if err := os.MkdirAll(mount.Path, 0o750); err != nil {
		return mount, fmt.Errorf("making the volume's directory: %w", err)
	}
	if mounted, err := isMount(mount.Path); err != nil || mounted {
		return mount, err
	}
	return mount, m.MountImage(ctx, pod, v, mount.Path)
}

// project makes or refreshes a volume of the kinds that show API objects as files.
func (m *Manager) project(ctx context.Context, pod *v1.Pod, v *v1.Volume) (mount Mount, next time.Time, err error) {
	mount = Mount{Path: m.path(pod, kindOf(v), v.Name), ReadOnly: true}
	c, ok, err := m.files(ctx, pod, v)
	if !ok {
		return Mount{}, next, noDriver(v)
	}
	if err != nil {
		var silent unreadable
		if _, missing := os.Lstat(filepath.Join(mount.Path, dataLink)); missing == nil && errors.As(err, &silent) {
			return mount, m.now().Add(retryRefresh), nil
		}
		return Mount{}, next, err
	}
	gid := fsGroup(pod)
	if err := makeDir(mount.Path, v.Secret != nil || v.Projected != nil, gid); err != nil {
		return Mount{}, next, err
	}
	return mount, c.next, Project(mount.Path, c.files, gid, m.now())
}

func kindOf(v *v1.Volume) string {
	switch {
	case v.ConfigMap != nil:
		return "configmap"
	case v.Secret != nil:
		return "secret"
	case v.DownwardAPI != nil:
		return "downward-api"
	}
	return "projected"
}

func (m *Manager) path(pod *v1.Pod, kind, name string) string {
	return filepath.Join(m.PodDir(string(pod.UID)), "volumes", "kubernetes.io~"+kind, name)
}

// Remove unmounts and deletes everything of a pod, the files of the agent included.
func (m *Manager) Remove(ctx context.Context, uid string) error {
	if err := m.Unmount(ctx, uid); err != nil {
		return err
	}
	if err := removeTree(m.PodDir(uid)); err != nil {
		return fmt.Errorf("removing the directory of pod %s: %w", uid, err)
	}
	return nil
}

// Unmount gives back the volumes of an ended pod; its other files stay.
func (m *Manager) Unmount(ctx context.Context, uid string) error {
	m.mu.Lock()
	maps.DeleteFunc(m.tokens, func(key string, _ token) bool { return strings.HasPrefix(key, uid+"/") })
	maps.DeleteFunc(m.credentials, func(key string, _ *credential) bool { return strings.HasPrefix(key, uid+"/") })
	m.mu.Unlock()
	dir := m.PodDir(uid)
	images, err := filepath.Glob(filepath.Join(dir, "volumes", "kubernetes.io~image", "*"))
	if err != nil {
		return err
	}
	for _, path := range images {
		if err := m.UnmountImage(ctx, path); err != nil {
			return fmt.Errorf("removing volumes of pod %s: %w", uid, err)
		}
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	for _, sub := range []string{"volumes", subPaths, claimRecords} {
		if err := removeTree(filepath.Join(dir, sub)); err != nil {
			return fmt.Errorf("removing volumes of pod %s: %w", uid, err)
		}
	}
	return nil
}
