// Package image composes container images from files, without Docker and without a registry. The same input gives the same
// bytes, whenever and wherever it is built.
package image

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // for go-digest
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationName carries the full reference in an OCI layout's index; importers of containerd prefer it to the tag.
const annotationName = "io.containerd.image.name"

// File of an image: a regular file, with Link a symbolic link to it, with fs.ModeDir a directory. Directories on the way
// to a file come by themselves, owned by root and open to all.
type File struct {
	Path string
	Mode fs.FileMode // permissions, and fs.ModeDir, fs.ModeSticky, fs.ModeSetuid
	Data []byte
	Link string
	UID  int
	GID  int
}

// Layer is a set of files; a file of a higher layer hides the one below it.
type Layer []File

// Image for this machine's architecture.
type Image struct {
	Name   string  // full reference, docker.io/mgr/demo:1
	Layers []Layer // the lowest first
	Config ocispec.ImageConfig
}

// epoch is the age of everything in an image.
var epoch = time.Unix(0, 0).UTC()

// WriteOCI writes a tar archive with an OCI image layout of one or more images; a layer that several of them have is written
// once. Layers are not compressed; compress the archive.
func WriteOCI(w io.Writer, images ...Image) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	blobs := map[string][]byte{}
	for _, img := range images {
		parts, err := img.build()
		if err != nil {
			return fmt.Errorf("compose %s: %w", img.Name, err)
		}
		manifest := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: ocispec.MediaTypeImageManifest,
			Config:    descriptor(ocispec.MediaTypeImageConfig, parts.config),
		}
		for _, layer := range parts.layers {
			manifest.Layers = append(manifest.Layers, descriptor(ocispec.MediaTypeImageLayer, layer))
		}
		text, err := json.Marshal(manifest)
		if err != nil {
			return fmt.Errorf("encode the manifest of %s: %w", img.Name, err)
		}
		entry := descriptor(ocispec.MediaTypeImageManifest, text)
		entry.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
		entry.Annotations = map[string]string{annotationName: img.Name, ocispec.AnnotationRefName: tag(img.Name)}
		index.Manifests = append(index.Manifests, entry)
		for _, blob := range append(parts.layers, text, parts.config) {
			blobs["blobs/sha256/"+digest.FromBytes(blob).Encoded()] = blob
		}
	}
	text, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encode the index: %w", err)
	}
	files := []File{
		{Path: ocispec.ImageLayoutFile, Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)},
		{Path: ocispec.ImageIndexFile, Mode: 0o644, Data: text},
	}
	for path, blob := range blobs {
		files = append(files, File{Path: path, Mode: 0o644, Data: blob})
	}
	return writeTar(w, files)
}

// WriteDocker writes the tar archive that `docker save` would.
func WriteDocker(w io.Writer, img Image) error {
	parts, err := img.build()
	if err != nil {
		return err
	}
	config := digest.FromBytes(parts.config).Encoded() + ".json"
	files := []File{{Path: config, Mode: 0o644, Data: parts.config}}
	var layers []string
	for _, layer := range parts.layers {
		path := digest.FromBytes(layer).Encoded() + "/layer.tar"
		files, layers = append(files, File{Path: path, Mode: 0o644, Data: layer}), append(layers, path)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": []string{img.Name}, "Layers": layers}})
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	return writeTar(w, append(files, File{Path: "manifest.json", Mode: 0o644, Data: manifest}))
}

type parts struct {
	config []byte
	layers [][]byte
}

func (img Image) build() (parts, error) {
	var built parts
	rootFS := ocispec.RootFS{Type: "layers"}
	for _, l := range img.Layers {
		var layer bytes.Buffer
		if err := writeTar(&layer, l); err != nil {
			return parts{}, err
		}
		built.layers = append(built.layers, layer.Bytes())
		rootFS.DiffIDs = append(rootFS.DiffIDs, digest.FromBytes(layer.Bytes()))
	}
	var err error
	built.config, err = json.Marshal(ocispec.Image{
		Created:  &epoch,
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   img.Config,
		RootFS:   rootFS,
	})
	if err != nil {
		return parts{}, fmt.Errorf("encode the image's config: %w", err)
	}
	return built, nil
}

func descriptor(mediaType string, blob []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
}

func tag(name string) string {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[i+1:]
	}
	return "latest"
}

// writeTar writes files sorted by path, each after its directories.
func writeTar(w io.Writer, files []File) error {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	tw := tar.NewWriter(w)
	have := map[string]bool{".": true}
	for _, f := range files {
		f.Path = strings.TrimPrefix(path.Clean(f.Path), "/")
		if err := writeDirs(tw, path.Dir(f.Path), have); err != nil {
			return err
		}
		if have[f.Path] {
			return fmt.Errorf("the image has /%s twice", f.Path)
		}
		have[f.Path] = true
		if err := tw.WriteHeader(f.header()); err != nil {
			return fmt.Errorf("write /%s: %w", f.Path, err)
		}
		if _, err := tw.Write(f.Data); err != nil {
			return fmt.Errorf("write /%s: %w", f.Path, err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return nil
}

func writeDirs(tw *tar.Writer, dir string, have map[string]bool) error {
	if have[dir] {
		return nil
	}
	if err := writeDirs(tw, path.Dir(dir), have); err != nil {
		return err
	}
	have[dir] = true
	if err := tw.WriteHeader(File{Path: dir, Mode: fs.ModeDir | 0o755}.header()); err != nil {
		return fmt.Errorf("write /%s: %w", dir, err)
	}
	return nil
}

func (f File) header() *tar.Header {
	h := &tar.Header{Name: f.Path, ModTime: epoch, Uid: f.UID, Gid: f.GID, Mode: int64(f.Mode.Perm()),
		Typeflag: tar.TypeReg, Size: int64(len(f.Data)), Format: tar.FormatPAX}
	for bit, mode := range map[int64]fs.FileMode{0o1000: fs.ModeSticky, 0o4000: fs.ModeSetuid} {
		if f.Mode&mode != 0 {
			h.Mode |= bit
		}
	}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Size, h.Mode = tar.TypeSymlink, f.Link, 0, 0o777
	case f.Mode.IsDir():
		h.Typeflag, h.Name, h.Size = tar.TypeDir, f.Path+"/", 0
	}
	return h
}
