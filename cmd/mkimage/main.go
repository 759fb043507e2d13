// Command mkimage builds what the mgr binary carries and the images that its tests use, without Docker:
//
//	mkimage embed          shim, runc's deputy and the demo image, into agent/embedded/files
//	mkimage busybox FILE   an image of Debian's busybox-static, as an archive for `mgr image import`
//	mkimage demo FILE      the demo image alone
//	mkimage conformance AGNHOST FILE
//	                       the images of Kubernetes' conformance tests, around their program agnhost
//
// It is run from the root of the repository: go run ./cmd/mkimage embed
package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"mgr/agent/image"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "embed":
		return embed(filepath.Join("agent", "embedded", "files"))
	case len(args) == 2 && args[0] == "busybox":
		img, err := busyboxImage()
		if err != nil {
			return err
		}
		return writeImage(args[1], img)
	case len(args) == 2 && args[0] == "demo":
		img, err := demoImage()
		if err != nil {
			return err
		}
		return writeImage(args[1], img)
	case len(args) == 3 && args[0] == "conformance":
		images, err := conformanceImages(args[1])
		if err != nil {
			return err
		}
		return writeImage(args[2], images...)
	}
	return errors.New("usage: mkimage embed | busybox FILE | demo FILE | conformance AGNHOST FILE")
}

// embed writes shim.gz, runc.gz and demo.tar.gz.
func embed(dir string) error {
	for _, name := range []string{"shim", "runc"} {
		program, err := goBuild(".", "./cmd/mgr-"+name)
		if err != nil {
			return err
		}
		if err := writeGzip(filepath.Join(dir, name+".gz"), func(w io.Writer) error { _, err := w.Write(program); return err }); err != nil {
			return err
		}
	}
	img, err := demoImage()
	if err != nil {
		return err
	}
	return writeImage(filepath.Join(dir, "demo.tar.gz"), img)
}

func writeImage(path string, images ...image.Image) error {
	return writeGzip(path, func(w io.Writer) error { return image.WriteOCI(w, images...) })
}

// writeGzip writes a file packed, and leaves one alone that would not change, so that what embeds it is not compiled again.
func writeGzip(path string, content func(io.Writer) error) error {
	var packed bytes.Buffer
	zw, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if err := errors.Join(content(zw), zw.Close()); err != nil {
		return fmt.Errorf("build %s: %w", path, err)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, packed.Bytes()) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", packed.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// goBuild compiles a program of the module in a folder of this repository, static and stripped, and returns it.
func goBuild(module, pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mkimage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-C", module, "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build %s: %w", pkg, err)
	}
	return os.ReadFile(out)
}
