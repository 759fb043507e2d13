package main

import (
	"fmt"
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
	search = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
	program, err := goBuild(".", "./demo")
	if err != nil {
		return image.Image{}, err
	}
	files := append(base(), image.File{Path: "bin/demo", Mode: 0o755, Data: program})
	for _, tool := range []string{"fetch", "sleep", "echo", "cat", "env", "crash", "true", "false"} {
		files = append(files, image.File{Path: "bin/" + tool, Link: "demo"})
	}
	return image.Image{Name: "docker.io/mgr/demo:1", Layers: []image.Layer{files}, Config: ocispec.ImageConfig{
		Entrypoint:   []string{"/bin/demo"},
		Env:          []string{search},
		User:         "nobody",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}}, nil
}

// busyboxImage is Debian's busybox-static with a link for each of its commands.
func busyboxImage() (image.Image, error) {
	program, err := debianFile("busybox-static", "/bin/busybox", "/usr/bin/busybox")
	if err != nil {
		return image.Image{}, err
	}
	links, err := applets(program)
	if err != nil {
		return image.Image{}, err
	}
	files := append(base(), image.File{Path: "bin/busybox", Mode: 0o755, Data: program})
	return image.Image{Name: "docker.io/mgr/busybox:1", Layers: []image.Layer{append(files, links...)}, Config: ocispec.ImageConfig{
		Cmd: []string{"sh"}, Env: []string{search},
	}}, nil
}

// applets returns a link for each of busybox's commands. The program must be called by its own name to list them.
func applets(program []byte) ([]image.File, error) {
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
	links := []image.File{{Path: "usr/bin/env", Link: "/bin/busybox"}}
	for _, name := range strings.Fields(string(out)) {
		if name != "busybox" {
			links = append(links, image.File{Path: "bin/" + name, Link: "busybox"})
		}
	}
	return links, nil
}
