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
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/agent/env"
)

// retryRefresh: how long old content stands before the masters are asked again.
const retryRefresh = 10 * time.Second

// Manager makes volumes. Fill in the exported fields before the first use.
type Manager struct {
	Dir     string // has one directory for each pod UID
	Client  kubernetes.Interface
	Objects env.Objects
	Facts   func(*v1.Pod) env.Facts
	Now     func() time.Time // nil: time.Now

	mu     sync.Mutex
	tokens map[string]token
}

// Mounts maps volume names to their paths on this node.
type Mounts map[string]string

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
		m.tokens = map[string]token{}
	}
	m.mu.Unlock()
	mounts = Mounts{}
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, again, err := m.mount(ctx, pod, v)
		if err != nil {
			errs = append(errs, &Error{Volume: v.Name, Err: err})
			continue
		}
		mounts[v.Name] = path
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
	}
	return mounts, next, errors.Join(errs...)
}

func (m *Manager) mount(ctx context.Context, pod *v1.Pod, v *v1.Volume) (path string, next time.Time, err error) {
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path, next, checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		path = m.path(pod, "empty-dir", v.Name)
		return path, next, makeEmptyDir(path, v.EmptyDir, fsGroup(pod))
	}
	path = m.path(pod, kindOf(v), v.Name)
	c, ok, err := m.files(ctx, pod, v)
	if !ok {
		return "", next, errors.New("this kind of volume is not supported by this node")
	}
	if err != nil {
		var silent unreadable
		if _, missing := os.Lstat(filepath.Join(path, dataLink)); missing == nil && errors.As(err, &silent) {
			return path, m.now().Add(retryRefresh), nil
		}
		return "", next, err
	}
	if err := makeDir(path, v.Secret != nil || v.Projected != nil, "", 0o755); err != nil {
		return "", next, err
	}
	gid := fsGroup(pod)
	if err := own(path, gid); err != nil {
		return "", next, err
	}
	return path, c.next, Project(path, c.files, gid, m.now())
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
func (m *Manager) Remove(uid string) error {
	if err := m.Unmount(uid); err != nil {
		return err
	}
	if err := os.RemoveAll(m.PodDir(uid)); err != nil {
		return fmt.Errorf("removing the directory of pod %s: %w", uid, err)
	}
	return nil
}

// Unmount gives back the volumes of an ended pod; its other files stay.
func (m *Manager) Unmount(uid string) error {
	m.mu.Lock()
	for key := range m.tokens {
		if len(key) > len(uid) && key[:len(uid)+1] == uid+"/" {
			delete(m.tokens, key)
		}
	}
	m.mu.Unlock()
	dir := m.PodDir(uid)
	if err := unmountBelow(dir); err != nil {
		return err
	}
	for _, sub := range []string{"volumes", "subpaths"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			return fmt.Errorf("removing volumes of pod %s: %w", uid, err)
		}
	}
	return nil
}
