package containerd_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mgr/agent"
	"mgr/agent/image"
)

// small is an image with nothing in it but a text.
func small(name, text string) image.Image {
	return image.Image{Name: name, Layers: []image.Layer{{{Path: "text", Mode: 0o644, Data: []byte(text)}}},
		Config: ocispec.ImageConfig{Cmd: []string{"/text"}, User: "12:34"}}
}

func oci(w io.Writer, img image.Image) error { return image.WriteOCI(w, img) }

func archive(t *testing.T, write func(io.Writer, image.Image) error, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packed(t *testing.T, plain []byte, writer func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := writer(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImport(t *testing.T) {
	n := newNode(t)
	gz := func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
	zst := func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }
	for name, data := range map[string][]byte{
		"oci":        archive(t, oci, small("docker.io/library/oci:latest", "oci")),
		"docker":     archive(t, image.WriteDocker, small("docker:latest", "docker")),
		"oci-gz":     packed(t, archive(t, oci, small("docker.io/library/oci-gz:latest", "gz")), gz),
		"docker-zst": packed(t, archive(t, image.WriteDocker, small("docker-zst:latest", "zst")), zst),
	} {
		names, err := n.Import(t.Context(), bytes.NewReader(data))
		if want := []string{"docker.io/library/" + name + ":latest"}; err != nil || !slices.Equal(names, want) {
			t.Errorf("%s: imported %v, %v; want %v", name, names, err, want)
			continue
		}
		img, err := n.Image(t.Context(), name)
		if err != nil || img.User != "12:34" || !slices.Equal(img.Names, names) || len(img.Digests) != 1 {
			t.Errorf("%s: %+v, %v", name, img, err)
			continue
		}
		for _, ref := range []string{img.ID, img.ID[7:], img.Digests[0], "library/" + name, "docker.io/library/" + name + ":latest"} {
			if again, err := n.Image(t.Context(), ref); err != nil || again.ID != img.ID {
				t.Errorf("%s by %s: %+v, %v", name, ref, again, err)
			}
		}
		id, err := n.CreateContainer(t.Context(), agent.ContainerSpec{Pod: n.pod("import-" + name), Name: "x", Image: img.ID})
		if err != nil {
			t.Errorf("%s: no container from it: %v", name, err)
		} else if c := n.container(id); c.ImageID != img.ID {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("this is no archive, but long enough to be read as one"), "cut": {0x1f, 0x8b, 8}} {
		if names, err := n.Import(t.Context(), bytes.NewReader(data)); err == nil {
			t.Errorf("%s: imported %v", name, names)
		}
	}
}

func TestImportOfSeveralImages(t *testing.T) {
	n := newNode(t)
	first, second := small("example.org/first:1", "shared"), small("example.org/second:1", "shared")
	second.Layers = append(second.Layers, image.Layer{{Path: "text", Mode: 0o644, Data: []byte("hides the one below")}})
	var archive, separate bytes.Buffer
	if err := errors.Join(image.WriteOCI(&archive, first, second), image.WriteOCI(&separate, second)); err != nil {
		t.Fatal(err)
	}
	if extra := archive.Len() - separate.Len(); extra > 4096 { // a manifest and a config, each in blocks of 512 bytes
		t.Errorf("the other image took %d bytes: is the shared layer there twice?", extra)
	}
	names, err := n.Import(t.Context(), &archive)
	if want := []string{first.Name, second.Name}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("imported %v, %v; want %v", names, err, want)
	}
	for _, name := range names {
		if _, err := n.CreateContainer(t.Context(), agent.ContainerSpec{Pod: n.pod("several" + name[12:13]), Name: "x", Image: name}); err != nil {
			t.Errorf("no container of %s: %v", name, err)
		}
	}
}

func TestImageBuildIsDeterministic(t *testing.T) {
	a, b := archive(t, oci, small("x:1", "same")), archive(t, oci, small("x:1", "same"))
	if !bytes.Equal(a, b) {
		t.Error("the same image twice gives different bytes")
	}
	twice := small("x:1", "")
	twice.Layers[0] = append(twice.Layers[0], twice.Layers[0][0])
	if err := image.WriteOCI(io.Discard, twice); err == nil {
		t.Error("a file given twice was accepted")
	}
}

func TestImagesAndRemoval(t *testing.T) {
	n := newNode(t)
	for _, tag := range []string{"a", "b"} { // one image, two names
		if _, err := n.Import(t.Context(), bytes.NewReader(archive(t, oci, small("example.org/some/image:"+tag, "one")))); err != nil {
			t.Fatal(err)
		}
	}
	img, err := n.Image(t.Context(), "example.org/some/image:a")
	if err != nil {
		t.Fatal(err)
	}
	all, err := n.Images(t.Context())
	if err != nil || len(all) != 2 { // and the demo image
		t.Fatalf("%+v, %v", all, err)
	}
	i := slices.IndexFunc(all, func(x agent.Image) bool { return x.ID == img.ID })
	if i < 0 || len(all[i].Names) != 2 || len(all[i].Digests) != 1 || all[i].Size == 0 {
		t.Errorf("%+v", all)
	}
	if err := n.RemoveImage(t.Context(), "example.org/some/image:a"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Image(t.Context(), "example.org/some/image:a"); !errors.Is(err, agent.ErrNoImage) {
		t.Errorf("a removed image: %v", err)
	}
	if _, err := n.Image(t.Context(), "example.org/some/image:b"); err != nil {
		t.Errorf("its other name: %v", err)
	}
	for range 2 {
		if err := n.RemoveImage(t.Context(), img.ID); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := n.Images(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := n.CreateContainer(t.Context(), agent.ContainerSpec{Pod: n.pod("none"), Image: "example.org/some/image:b"}); !errors.Is(err, agent.ErrNoImage) {
		t.Errorf("a container of no image: %v", err)
	}
	for _, bad := range []string{"", "UPPER", "a b", "x:y:z"} {
		if _, err := n.Image(t.Context(), bad); err == nil || errors.Is(err, agent.ErrNoImage) {
			t.Errorf("reference %q: %v", bad, err)
		}
	}
}
