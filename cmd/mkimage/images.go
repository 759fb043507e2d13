package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mgr/agent/image"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
	group  = "root:x:0:\ndaemon:x:1:\nusers:x:100:nobody\nnogroup:x:65534:\n"
	path   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// base are the files that every image has.
func base() []image.File {
	return []image.File{
		{Path: "etc/passwd", Mode: 0o644, Data: []byte(passwd)},
		{Path: "etc/group", Mode: 0o644, Data: []byte(group)},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "root", Mode: fs.ModeDir | 0o700},
	}
}

// demoImage is the image carried in the binary: the demo program, and links to it by its tools' names. It runs as nobody.
func demoImage() (image.Image, error) {
	program, err := goBuild("./demo")
	if err != nil {
		return image.Image{}, err
	}
	files := append(base(), image.File{Path: "bin/demo", Mode: 0o755, Data: program})
	for _, tool := range []string{"fetch", "sleep", "echo", "cat", "env", "crash", "true", "false"} {
		files = append(files, image.File{Path: "bin/" + tool, Link: "demo"})
	}
	return image.Image{Name: "docker.io/mgr/demo:1", Files: files, Config: ocispec.ImageConfig{
		Entrypoint:   []string{"/bin/demo"},
		Env:          []string{path},
		User:         "nobody",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}}, nil
}

// busyboxImage is Debian's busybox-static with a link for each of its commands.
func busyboxImage() (image.Image, error) {
	program, err := debianFile("busybox-static", "./bin/busybox", "./usr/bin/busybox")
	if err != nil {
		return image.Image{}, err
	}
	names, err := applets(program)
	if err != nil {
		return image.Image{}, err
	}
	files := append(base(), image.File{Path: "bin/busybox", Mode: 0o755, Data: program},
		image.File{Path: "usr/bin/env", Link: "/bin/busybox"})
	for _, name := range names {
		if name != "busybox" {
			files = append(files, image.File{Path: "bin/" + name, Link: "busybox"})
		}
	}
	return image.Image{Name: "docker.io/mgr/busybox:1", Files: files, Config: ocispec.ImageConfig{
		Cmd: []string{"sh"}, Env: []string{path},
	}}, nil
}

// debianFile returns one file of a package, the first of the paths that is there: from this machine if the package is installed,
// else from the package as apt downloads it.
func debianFile(pkg string, paths ...string) ([]byte, error) {
	if exec.Command("dpkg-query", "--list", pkg).Run() == nil {
		for _, p := range paths {
			if file, err := os.ReadFile(strings.TrimPrefix(p, ".")); err == nil {
				return file, nil
			}
		}
	}
	dir, err := os.MkdirTemp("", "mkimage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // apt downloads as a user of its own
		return nil, err
	}
	download := exec.Command("apt-get", "download", pkg)
	download.Dir = dir
	if out, err := download.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("download Debian's package %s: %w: %s", pkg, err, bytes.TrimSpace(out))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return nil, errors.Join(fmt.Errorf("apt-get downloaded %d files for %s", len(debs), pkg), err)
	}
	var stderr bytes.Buffer
	unpack := exec.Command("dpkg-deb", "--fsys-tarfile", debs[0])
	unpack.Stderr = &stderr
	archive, err := unpack.Output()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s", debs[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err != nil {
			return nil, fmt.Errorf("find %s in package %s: %w", strings.Join(paths, " or "), pkg, err)
		}
		for _, p := range paths {
			if h.Name == p {
				return io.ReadAll(tr)
			}
		}
	}
}

// applets asks busybox for the names of its commands. It must be called by its own name to listen.
func applets(program []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "mkimage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	busybox := filepath.Join(dir, "busybox")
	if err := os.WriteFile(busybox, program, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's commands: %w", err)
	}
	return strings.Fields(string(out)), nil
}
