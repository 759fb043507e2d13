package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mgr/agent"
)

// labelPinned with the value pinned keeps an image from being removed for its space; containerd's own CRI uses the same.
const (
	labelPinned = "io.cri-containerd.pinned"
	pinned      = "pinned"
)

// imageInfo is what is needed of an image to run it; it depends on the image's digest only, so it never changes.
type imageInfo struct {
	name    string // a name under which containerd knows it
	id      string // digest of the config
	chainID string // of its topmost layer: the parent snapshot
	size    int64
	config  ocispec.ImageConfig
}

// imageCache remembers what has been read of images, by the digest that their names point to.
type imageCache struct {
	snapshotter string
	mu          sync.Mutex
	byTarget    map[string]*imageInfo
}

// normalize completes a reference as Docker does: busybox means docker.io/library/busybox:latest.
func normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %w", ref, err)
	}
	return named.String(), nil
}

// find returns containerd's entries for a reference: a name, name@digest, or an image id (sha256:…, or its hexadecimal digits).
func (r *Runtime) find(ctx context.Context, ref string) (images.Image, error) {
	if id, ok := imageID(ref); ok {
		return r.findByID(ctx, id)
	}
	name, err := normalize(ref)
	if err != nil {
		return images.Image{}, err
	}
	img, err := r.client.ImageService().Get(ctx, name)
	if err == nil {
		return img, nil
	}
	if !errdefs.IsNotFound(err) {
		return images.Image{}, fmt.Errorf("look up image %s: %w", name, err)
	}
	if _, hash, ok := strings.Cut(name, "@"); ok { // known under a tag only, perhaps
		all, err := r.client.ImageService().List(ctx, fmt.Sprintf("target.digest==%q", hash))
		if err != nil {
			return images.Image{}, fmt.Errorf("look up image %s: %w", name, err)
		}
		repo, _, _ := strings.Cut(name, "@")
		for _, img := range all {
			if strings.HasPrefix(img.Name, repo+":") {
				return img, nil
			}
		}
	}
	return images.Image{}, fmt.Errorf("image %s: %w", ref, agent.ErrNoImage)
}

// imageID says whether a reference is an image id, and completes it.
func imageID(ref string) (string, bool) {
	id := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(ref, "sha256:"))
	return id.String(), id.Validate() == nil
}

func (r *Runtime) findByID(ctx context.Context, id string) (images.Image, error) {
	all, err := r.client.ImageService().List(ctx)
	if err != nil {
		return images.Image{}, fmt.Errorf("list images: %w", err)
	}
	for _, img := range all {
		info, err := r.describe(ctx, img)
		if err == nil && info.id == id {
			return img, nil
		}
	}
	return images.Image{}, fmt.Errorf("image %s: %w", id, agent.ErrNoImage)
}

// resolveImage finds an image and reads what is needed to run it.
func (r *Runtime) resolveImage(ctx context.Context, ref string) (*imageInfo, error) {
	img, err := r.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return r.describe(ctx, img)
}

// describe reads an image's manifest and config, once.
func (r *Runtime) describe(ctx context.Context, img images.Image) (*imageInfo, error) {
	key := img.Target.Digest.String()
	r.images.mu.Lock()
	info := r.images.byTarget[key]
	r.images.mu.Unlock()
	if info == nil {
		var err error
		if info, err = r.readImage(ctx, img); err != nil {
			return nil, fmt.Errorf("read image %s: %w", img.Name, err)
		}
		r.images.mu.Lock()
		r.images.byTarget[key] = info
		r.images.mu.Unlock()
	}
	named := *info
	named.name = img.Name
	return &named, nil
}

func (r *Runtime) readImage(ctx context.Context, img images.Image) (*imageInfo, error) {
	store := r.client.ContentStore()
	manifest, err := images.Manifest(ctx, store, img.Target, platforms.Default())
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("it has no variant for this machine (%s), or is incomplete: %w", platforms.DefaultString(), err)
	}
	if err != nil {
		return nil, err
	}
	text, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("decode its config: %w", err)
	}
	info := &imageInfo{id: manifest.Config.Digest.String(), config: config.Config, size: manifest.Config.Size,
		chainID: identity.ChainID(config.RootFS.DiffIDs).String()}
	for _, layer := range manifest.Layers {
		info.size += layer.Size
	}
	return info, nil
}

// Image implements agent.Runtime.
func (r *Runtime) Image(ctx context.Context, ref string) (agent.Image, error) {
	ctx = scope(ctx)
	img, err := r.find(ctx, ref)
	if err != nil {
		return agent.Image{}, err
	}
	info, err := r.describe(ctx, img)
	if err != nil {
		return agent.Image{}, err
	}
	return face(info, []images.Image{img}), nil
}

// face shows the entries of one image id as one image.
func face(info *imageInfo, entries []images.Image) agent.Image {
	out := agent.Image{ID: info.id, Size: info.size, User: info.config.User}
	for _, e := range entries {
		named, err := reference.ParseNamed(e.Name)
		if err != nil {
			continue
		}
		if _, ok := named.(reference.Tagged); ok {
			out.Names = append(out.Names, e.Name)
		}
		out.Pinned = out.Pinned || e.Labels[labelPinned] == pinned
		if d := named.Name() + "@" + e.Target.Digest.String(); !slices.Contains(out.Digests, d) {
			out.Digests = append(out.Digests, d)
		}
	}
	return out
}

// Images implements agent.Runtime.
func (r *Runtime) Images(ctx context.Context) ([]agent.Image, error) {
	ctx = scope(ctx)
	all, err := r.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	entries := map[string][]images.Image{}
	infos := map[string]*imageInfo{}
	for _, img := range all {
		info, err := r.describe(ctx, img)
		if err != nil {
			r.cfg.Log.Warn("an image cannot be read and is not listed", "image", img.Name, "err", err)
			continue
		}
		infos[info.id] = info
		entries[info.id] = append(entries[info.id], img)
	}
	out := make([]agent.Image, 0, len(infos))
	for id, info := range infos {
		out = append(out, face(info, entries[id]))
	}
	slices.SortFunc(out, func(a, b agent.Image) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// RemoveImage implements agent.Runtime. By name it removes that name, by id every name of the image; content that no name
// needs any more is collected.
func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	ctx = scope(ctx)
	img, err := r.find(ctx, ref)
	if errors.Is(err, agent.ErrNoImage) {
		return nil
	}
	if err != nil {
		return err
	}
	doomed := []images.Image{img}
	if _, ok := imageID(ref); ok {
		if doomed, err = r.client.ImageService().List(ctx, fmt.Sprintf("target.digest==%q", img.Target.Digest.String())); err != nil {
			return fmt.Errorf("list the names of image %s: %w", ref, err)
		}
	}
	for i, d := range doomed {
		var options []images.DeleteOpt
		if i == len(doomed)-1 { // the disk has the room again when this returns
			options = append(options, images.SynchronousDelete())
		}
		if err := r.client.ImageService().Delete(ctx, d.Name, options...); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", d.Name, err)
		}
	}
	return nil
}

// Import implements agent.Runtime.
func (r *Runtime) Import(ctx context.Context, archive io.Reader) ([]string, error) {
	ctx = scope(ctx)
	plain, err := decompress(archive)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	defer plain.Close()
	imported, err := r.client.Import(ctx, plain,
		containerd.WithImageRefTranslator(func(name string) string {
			full, err := normalize(name)
			if err != nil {
				return name
			}
			return full
		}),
		// An archive without a name is reachable by its digest.
		containerd.WithDigestRef(func(d digest.Digest) string { return "docker.io/library/import@" + d.String() }),
		containerd.WithSkipDigestRef(func(name string) bool { return name != "" }))
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	var names []string
	for _, img := range imported {
		if err := r.unpack(ctx, img.Name); err != nil {
			return names, err
		}
		// It came from nowhere that it could be had from again.
		img.Labels = map[string]string{labelPinned: pinned}
		if _, err := r.client.ImageService().Update(ctx, img, "labels."+labelPinned); err != nil {
			return names, fmt.Errorf("pin image %s: %w", img.Name, err)
		}
		names = append(names, img.Name)
	}
	if len(names) == 0 {
		return nil, errors.New("import images: the archive names no image for this machine's platform")
	}
	return names, nil
}

// unpack makes snapshots of an image's layers.
func (r *Runtime) unpack(ctx context.Context, name string) error {
	img, err := r.client.GetImage(ctx, name)
	if err != nil {
		return fmt.Errorf("unpack image %s: %w", name, err)
	}
	if err := img.Unpack(ctx, r.images.snapshotter); err != nil {
		return fmt.Errorf("unpack image %s: %w", name, err)
	}
	return nil
}
