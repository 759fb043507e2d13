package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	imageGCEvery   = 5 * time.Minute
	imageListEvery = 30 * time.Second
	maxNodeImages  = 50 // in the node's status
	maxNodeNames   = 5  // of each of them
)

// imageKeeper knows the node's images and when each was last used, and removes unused ones when the disk fills.
type imageKeeper struct {
	cfg     ImageConfig
	runtime Runtime
	inUse   func(Image) bool                              // by a container or a pod that is still to start
	disk    func() (capacity, available int64, err error) // of the file system that holds the images, in bytes
	left    func(ids []string, asOf time.Time) error      // is told what images there are after a collection
	warn    func(reason, format string, args ...any)      // an event of the node

	collecting sync.Mutex // one collection at a time

	mu     sync.Mutex
	list   []v1.ContainerImage
	usages map[string]*imageUsage // by image id
	begun  time.Time
}

type imageUsage struct{ seen, used time.Time }

// use notes that a pod has been told that the image is there: it shall not vanish before the container is made.
func (k *imageKeeper) use(i Image) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.usage(i.ID, time.Now()).used = time.Now()
}

func (k *imageKeeper) usage(id string, now time.Time) *imageUsage {
	u := k.usages[id]
	if u == nil {
		u = &imageUsage{seen: now}
		k.usages[id] = u
	}
	return u
}

// run keeps the list for the node's status, and collects every few minutes.
func (k *imageKeeper) run(ctx context.Context) {
	list, collect := time.NewTicker(imageListEvery), time.NewTicker(imageGCEvery)
	defer list.Stop()
	defer collect.Stop()
	k.refresh(ctx)
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-list.C:
			k.refresh(ctx)
		case <-collect.C:
			err := k.collect(ctx, time.Now())
			if err == nil || ctx.Err() != nil {
				failures = 0
				continue
			}
			if failures++; failures > 1 { // once may be a coincidence
				k.warn("ImageGCFailed", "%v", err)
			}
		}
	}
}

// refresh looks at the images, notes which are used, and publishes the list. What it cannot read stays as it was.
func (k *imageKeeper) refresh(ctx context.Context) {
	images, err := k.runtime.Images(ctx)
	if err == nil {
		k.see(images, time.Now())
	}
}

// see notes which images there are and which are in use now.
func (k *imageKeeper) see(images []Image, now time.Time) {
	used := map[string]bool{}
	for _, i := range images {
		used[i.ID] = k.inUse(i)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = nodeImages(images)
	for _, i := range images {
		u := k.usage(i.ID, now)
		if used[i.ID] {
			u.used = now
		}
	}
	for id, u := range k.usages {
		if _, there := used[id]; !there && now.Sub(u.seen) > k.cfg.MinAge && now.Sub(u.used) > k.cfg.MinAge {
			delete(k.usages, id)
		}
	}
}

// nodeImages are the largest images, as the node's status lists them.
func nodeImages(images []Image) []v1.ContainerImage {
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b Image) int { return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.ID, b.ID)) })
	var out []v1.ContainerImage
	for _, i := range images[:min(len(images), maxNodeImages)] {
		names := slices.Concat(i.Digests, i.Names)
		out = append(out, v1.ContainerImage{Names: names[:min(len(names), maxNodeNames)], SizeBytes: i.Size})
	}
	return out
}

// forStatus is the list for the node's status.
func (k *imageKeeper) forStatus() []v1.ContainerImage {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.list
}

// collect removes images that were not used for MaxAge, and, when the disk is fuller than GCHigh, unused ones until it is at GCLow.
func (k *imageKeeper) collect(ctx context.Context, now time.Time) error {
	k.collecting.Lock()
	defer k.collecting.Unlock()
	images, err := k.candidates(ctx, now)
	if err != nil {
		return err
	}
	if k.cfg.MaxAge > 0 && now.Sub(k.begun) > k.cfg.MaxAge { // before that, nobody knows
		old := func(i Image) bool { return now.Sub(k.lastUsed(i)) > k.cfg.MaxAge }
		if images, _, err = k.remove(ctx, images, now, old, func() bool { return false }); err != nil {
			return fmt.Errorf("wanted to remove images unused for %s: %w", k.cfg.MaxAge, err)
		}
	}
	capacity, available, err := k.disk()
	if err != nil {
		return err
	}
	if capacity <= 0 {
		k.warn("InvalidDiskCapacity", "invalid capacity %d on image filesystem", capacity)
		return fmt.Errorf("invalid capacity %d on image filesystem", capacity)
	}
	available = min(available, capacity)
	used := 100 - int(available*100/capacity)
	if used < k.cfg.GCHigh {
		return nil
	}
	want := capacity * int64(100-k.cfg.GCLow) / 100
	enough := func() bool { _, available, err := k.disk(); return err == nil && available >= want }
	if err := k.runtime.Reclaim(ctx); err != nil {
		return err
	}
	_, freed, err := k.remove(ctx, images, now, func(Image) bool { return true }, enough)
	if err != nil {
		return fmt.Errorf("wanted to free %d bytes of images: %w", want-available, err)
	}
	if !enough() {
		err := fmt.Errorf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
			used, resource.NewQuantity(capacity, resource.BinarySI), freed)
		k.warn("FreeDiskSpaceFailed", "%v", err)
		return err
	}
	return nil
}

// deleteUnused removes every image that nobody uses, as disk pressure demands.
func (k *imageKeeper) deleteUnused(ctx context.Context) error {
	k.collecting.Lock()
	defer k.collecting.Unlock()
	now := time.Now()
	images, err := k.candidates(ctx, now)
	if err == nil {
		err = k.runtime.Reclaim(ctx)
	}
	if err == nil {
		_, _, err = k.remove(ctx, images, now, func(Image) bool { return true }, func() bool { return false })
	}
	return err
}

// candidates are the images that nobody uses and nobody wants to stay, least recently used first.
func (k *imageKeeper) candidates(ctx context.Context, now time.Time) ([]Image, error) {
	images, err := k.runtime.Images(ctx)
	if err != nil {
		return nil, err
	}
	k.see(images, now)
	var ids []string
	for _, i := range images {
		ids = append(ids, i.ID)
	}
	if err := k.left(ids, now); err != nil {
		return nil, err
	}
	images = slices.DeleteFunc(images, func(i Image) bool { return i.Pinned || k.inUse(i) })
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(k.lastUsed(a).Compare(k.lastUsed(b)), k.firstSeen(a).Compare(k.firstSeen(b)), cmp.Compare(a.ID, b.ID))
	})
	return images, nil
}

func (k *imageKeeper) lastUsed(i Image) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.usage(i.ID, time.Now()).used
}

func (k *imageKeeper) firstSeen(i Image) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.usage(i.ID, time.Now()).seen
}

// remove deletes images that may go, in their order, until enough; freed is the sum of their sizes. It goes on after an error.
func (k *imageKeeper) remove(ctx context.Context, images []Image, now time.Time, may func(Image) bool, enough func() bool) (rest []Image, freed int64, err error) {
	var errs []error
	for n, i := range images {
		if ctx.Err() != nil || enough() {
			return append(rest, images[n:]...), freed, errors.Join(append(errs, ctx.Err())...)
		}
		fresh := now.Sub(k.firstSeen(i)) < k.cfg.MinAge || now.Sub(k.lastUsed(i)) < k.cfg.MinAge
		if fresh || !may(i) || k.inUse(i) {
			rest = append(rest, i)
			continue
		}
		if err := k.runtime.RemoveImage(ctx, i.ID); err != nil {
			errs, rest = append(errs, err), append(rest, i)
			continue
		}
		freed += i.Size
	}
	return rest, freed, errors.Join(errs...)
}

// newImageKeeper makes the keeper of the agent's images.
func (a *Agent) newImageKeeper() *imageKeeper {
	return &imageKeeper{
		cfg: a.cfg.Images, runtime: a.runtime, inUse: a.imageInUse, left: a.pulls.records.Prune, begun: time.Now(), usages: map[string]*imageUsage{},
		disk: func() (int64, int64, error) { return diskSpace(a.cfg.ImageDir) },
		warn: func(reason, format string, args ...any) {
			a.nodeEvent(v1.EventTypeWarning, reason, format, args...)
			a.log.Warn("collecting images", "reason", reason, "err", fmt.Sprintf(format, args...))
		},
	}
}

func diskSpace(dir string) (capacity, available int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("looking at the disk of %s: %w", dir, err)
	}
	return int64(s.Blocks) * s.Bsize, int64(s.Bavail) * s.Bsize, nil
}

// imageInUse: a container, dead ones included, is of it, or a pod of this node names it.
func (a *Agent) imageInUse(i Image) bool {
	is := func(ref string) bool {
		return ref != "" && (ref == i.ID || slices.Contains(i.Digests, ref) || slices.Contains(i.Names, fullName(ref)) || slices.Contains(i.Digests, fullName(ref)))
	}
	for _, w := range a.snapshot() {
		s := w.look()
		for _, instances := range []map[string]Container{s.containers, s.previous} {
			for _, c := range instances {
				if is(c.ImageID) {
					return true
				}
			}
		}
		if slices.ContainsFunc(imagesOf(s.pod), is) {
			return true
		}
	}
	return false
}

// imagesOf are the images that a pod names.
func imagesOf(pod *v1.Pod) []string {
	var out []string
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			out = append(out, list[i].Image)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		out = append(out, pod.Spec.EphemeralContainers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			out = append(out, image.Reference)
		}
	}
	return out
}

// DeleteUnusedImages removes every image that nobody uses; for pressure on the disk.
func (a *Agent) DeleteUnusedImages(ctx context.Context) error { return a.images.deleteUnused(ctx) }
