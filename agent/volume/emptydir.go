package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
)

// emptyDir makes a pod's scratch volume, once: an existing one is the pod's own by now, and neither mode nor owner are ours
// to set again.
func (m *Manager) emptyDir(pod *v1.Pod, v *v1.Volume) (Mount, error) {
	e, gid := v.EmptyDir, fsGroup(pod)
	path := m.path(pod, "empty-dir", v.Name)
	mount := Mount{Path: path}
	switch {
	case e.Medium == v1.StorageMediumDefault:
		return mount, makeScratch(path, gid)
	case e.Medium == v1.StorageMediumMemory:
		return mount, mountMemory(path, "tmpfs", gid, 0o777, size(m.memorySize(pod, e)))
	case strings.HasPrefix(string(e.Medium), string(v1.StorageMediumHugePages)):
		options, err := hugePages(pod, e)
		if err != nil {
			return mount, err
		}
		return mount, mountMemory(path, "hugetlbfs", gid, 0o777, options)
	}
	return mount, fmt.Errorf("storage medium %q is not known", e.Medium)
}

// makeScratch makes a directory for everybody under another name first, so that it is there with its mode and owner or not
// at all.
func makeScratch(path string, gid int) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A volume's name holds no dot, so this is nobody's.
	draft := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.MkdirAll(draft, 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if err := os.Chmod(draft, 0o777); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if err := own(draft, gid, false); err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	return nil
}

// mountMemory mounts a file system in memory, with its mode and group from the start.
func mountMemory(path, kind string, gid int, mode uint32, options []string) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if mounted, err := isMount(path); err != nil || mounted {
		return err
	}
	if gid >= 0 {
		mode |= unix.S_ISGID
		options = append(options, "gid="+strconv.Itoa(gid))
	}
	options = append(options, fmt.Sprintf("mode=%o", mode))
	if kind == "tmpfs" {
		// What is in it may be a secret. Kernels before 6.4 cannot keep it off the swap.
		err := unix.Mount(kind, path, kind, 0, strings.Join(append(options, "noswap"), ","))
		if err == nil {
			return nil
		}
	}
	if err := unix.Mount(kind, path, kind, 0, strings.Join(options, ",")); err != nil {
		return fmt.Errorf("mounting a %s at %s: %w", kind, path, err)
	}
	return nil
}

func size(bytes int64) []string {
	if bytes <= 0 {
		return nil
	}
	return []string{"size=" + strconv.FormatInt(bytes, 10)}
}

// memorySize is how much a volume in memory may hold: the least of its own limit, the pod's memory limit and what the node
// has for pods. 0: nothing is known.
func (m *Manager) memorySize(pod *v1.Pod, e *v1.EmptyDirVolumeSource) int64 {
	allocatable := m.Facts(pod).Allocatable
	most := allocatable.Memory().Value()
	atMost := func(n int64) {
		if n > 0 && (most == 0 || n < most) {
			most = n
		}
	}
	if limited(pod) {
		limits := resource.PodLimits(pod, resource.PodResourcesOptions{})
		atMost(limits.Memory().Value())
	}
	if e.SizeLimit != nil {
		atMost(e.SizeLimit.Value())
	}
	return most
}

// limited: the pod as a whole cannot have more memory than its limits say, because each container has one.
func limited(pod *v1.Pod) bool {
	if r := pod.Spec.Resources; r != nil && !r.Limits.Memory().IsZero() {
		return true
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Resources.Limits.Memory().IsZero() {
			return false
		}
	}
	return true
}

// hugePages are the mount options for a volume of huge pages: of the size that the medium names or that the pod's containers
// ask for.
func hugePages(pod *v1.Pod, e *v1.EmptyDirVolumeSource) ([]string, error) {
	text, named := strings.CutPrefix(string(e.Medium), string(v1.StorageMediumHugePagesPrefix))
	if !named {
		sizes := map[string]bool{}
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				for name := range list[i].Resources.Requests {
					if s, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
						sizes[s], text = true, s
					}
				}
			}
		}
		if len(sizes) != 1 {
			return nil, fmt.Errorf("medium %s needs containers that request huge pages of one size; for several, name the size: HugePages-2Mi", e.Medium)
		}
	}
	page, err := apiresource.ParseQuantity(text)
	if err != nil {
		return nil, fmt.Errorf("medium %s names no size of pages: %w", e.Medium, err)
	}
	count, err := os.ReadFile(fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", page.Value()>>10))
	if err != nil || strings.TrimSpace(string(count)) == "0" {
		return nil, fmt.Errorf("this node has no huge pages of %s", text)
	}
	return append([]string{"pagesize=" + strconv.FormatInt(page.Value(), 10)}, sizeOf(e)...), nil
}

func sizeOf(e *v1.EmptyDirVolumeSource) []string {
	if e.SizeLimit == nil {
		return nil
	}
	return size(e.SizeLimit.Value())
}
