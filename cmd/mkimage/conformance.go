package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mgr/agent/image"
)

// Where Kubernetes' tests look for their images, and the versions that k8s.io/kubernetes v1.37.2 names in
// test/utils/image/manifest.go.
const (
	testRegistry = "registry.k8s.io/e2e-test-images/"
	pauseImage   = "registry.k8s.io/pause:3.10.2"
	testModule   = "test/conformance"
)

// conformanceImages are images under the names of those that Kubernetes' conformance tests run, composed of Debian's programs
// and of the tests' own agnhost, which has been built as a file.
func conformanceImages(agnhost string) ([]image.Image, error) {
	shell, err := debianShell()
	if err != nil {
		return nil, err
	}
	dns, err := debianLayer(shell, "bash", "bind9-dnsutils")
	if err != nil {
		return nil, err
	}
	busybox, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	tools, err := debianLayer(shell, "bash", "bind9-dnsutils", "curl", "netcat-openbsd", "iproute2", "socat", "iperf", "util-linux")
	if err != nil {
		return nil, err
	}
	nginx, err := nginxLayer(shell)
	if err != nil {
		return nil, err
	}
	host, err := agnhostLayer(agnhost)
	if err != nil {
		return nil, err
	}
	pause, err := goBuild(testModule, "./programs/pause")
	if err != nil {
		return nil, err
	}
	nnp, err := goBuild(testModule, "./programs/nnp")
	if err != nil {
		return nil, err
	}
	env := []string{search}
	serve := ocispec.ImageConfig{Env: env, Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}
	agn := ocispec.ImageConfig{Env: env, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, ExposedPorts: ports("80", "8080", "8081", "9376", "5000")}
	sh := ocispec.ImageConfig{Env: env, Cmd: []string{"sh"}}
	return []image.Image{
		{Name: pauseImage, Layers: []image.Layer{{{Path: "pause", Mode: 0o755, Data: pause}}},
			Config: ocispec.ImageConfig{Env: env, Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		{Name: testRegistry + "agnhost:2.66.1", Layers: []image.Layer{shell, tools, host}, Config: agn},
		{Name: testRegistry + "agnhost:2.55", Layers: []image.Layer{shell, tools, host, version("2.55")}, Config: agn},
		{Name: testRegistry + "nautilus:1.8", Layers: []image.Layer{shell, tools, host, picture("nautilus.jpg")}, Config: serve},
		{Name: testRegistry + "kitten:1.8", Layers: []image.Layer{shell, tools, host, picture("kitten.jpg"), alpine()}, Config: serve},
		{Name: testRegistry + "busybox:1.37.0-2", Layers: []image.Layer{shell, busybox}, Config: sh},
		{Name: testRegistry + "glibc-dns-testing:2.1.1", Layers: []image.Layer{shell, dns}, Config: sh},
		{Name: testRegistry + "nonewprivs:1.4", Layers: []image.Layer{shell,
			{{Path: "usr/local/bin/nnp", Mode: fs.ModeSetuid | 0o755, Data: nnp}}}, Config: ocispec.ImageConfig{Env: env, Cmd: []string{"nnp"}}},
		{Name: testRegistry + "nginx:1.27.0-2", Layers: []image.Layer{shell, nginx}, Config: ocispec.ImageConfig{Env: env,
			Cmd: []string{"nginx", "-g", "daemon off;"}, ExposedPorts: ports("80"), StopSignal: "SIGQUIT"}},
	}, nil
}

func ports(numbers ...string) map[string]struct{} {
	set := map[string]struct{}{}
	for _, n := range numbers {
		set[n+"/tcp"] = struct{}{}
	}
	return set
}

// version tells one image from another that is the same program, so that they have different ids.
func version(v string) image.Layer {
	return image.Layer{{Path: "etc/image-version", Mode: 0o644, Data: []byte(v + "\n")}}
}

// picture is what the update demo asks its pods for.
func picture(name string) image.Layer {
	return image.Layer{{Path: "data.json", Mode: 0o644, Data: fmt.Appendf(nil, "{\n  \"image\": %q\n}\n", name)}}
}

// alpine is the one line that a test reads, in a volume made of the image, of the system that Kubernetes builds it from.
func alpine() image.Layer {
	return image.Layer{{Path: "etc/os-release", Mode: 0o644, Data: []byte("NAME=\"in place of Alpine Linux\"\n")}}
}

// debianShell is busybox as Debian links it for its installer: dynamically, because a static glibc cannot resolve names.
func debianShell() (image.Layer, error) {
	files, err := debianFiles("busybox", "libc6")
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f image.File) bool { return f.Path == "etc/passwd" || f.Path == "etc/group" })
	program, ok := find(files, "bin/busybox")
	if !ok {
		return nil, fmt.Errorf("Debian's package busybox has no /bin/busybox")
	}
	links, err := applets(program.Data)
	if err != nil {
		return nil, err
	}
	layer := append(image.Layer(base()), files...)
	return append(layer, links...), nil
}

// debianLayer is what packages add to the layers below.
func debianLayer(below image.Layer, packages ...string) (image.Layer, error) {
	files, err := debianFiles(packages...)
	if err != nil {
		return nil, err
	}
	have := map[string]image.File{}
	for _, f := range below {
		have[f.Path] = f
	}
	return slices.DeleteFunc(files, func(f image.File) bool {
		old, ok := have[f.Path]
		return ok && (f.Mode.IsDir() || len(old.Data) == len(f.Data) && old.Link == f.Link)
	}), nil
}

// nginxLayer is Debian's nginx with a configuration that needs nothing else: it serves a page on port 80 and logs to its output.
func nginxLayer(below image.Layer) (image.Layer, error) {
	layer, err := debianLayer(below, "nginx-light")
	if err != nil {
		return nil, err
	}
	own := map[string]string{
		"etc/nginx/nginx.conf": `user nobody nogroup;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 256; }
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  server { listen 80; root /usr/share/nginx/html; index index.html; }
}
`,
		"usr/share/nginx/html/index.html": "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n",
	}
	layer = slices.DeleteFunc(layer, func(f image.File) bool { return own[f.Path] != "" })
	for _, p := range slices.Sorted(maps.Keys(own)) {
		layer = append(layer, image.File{Path: p, Mode: 0o644, Data: []byte(own[p])})
	}
	for _, dir := range []string{"var/lib/nginx", "var/log/nginx", "run"} {
		layer = slices.DeleteFunc(layer, func(f image.File) bool { return f.Path == dir })
		layer = append(layer, image.File{Path: dir, Mode: fs.ModeDir | 0o777})
	}
	return layer, nil
}

// agnhostLayer is the tests' program with the files and the user that they expect beside it.
func agnhostLayer(program string) (image.Layer, error) {
	data, err := os.ReadFile(filepath.Clean(program))
	if err != nil {
		return nil, fmt.Errorf("read agnhost (build it with go build k8s.io/kubernetes/test/images/agnhost in %s): %w", testModule, err)
	}
	out, err := exec.Command("go", "list", "-C", testModule, "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module k8s.io/kubernetes: %w", err)
	}
	layer := image.Layer{
		{Path: "agnhost", Mode: 0o755, Data: data},
		{Path: "agnhost-2", Link: "agnhost"},
		{Path: "uploads", Mode: fs.ModeDir | 0o755},
		{Path: "usr/local/bin/iperf", Link: "/usr/bin/iperf"},
		{Path: "etc/passwd", Mode: 0o644, Data: []byte(passwd + "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte(group + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")},
	}
	for _, name := range []string{"localhost.crt", "localhost.key"} { // for its HTTPS server
		pem, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "test/images/agnhost/porter", name))
		if err != nil {
			return nil, err
		}
		layer = append(layer, image.File{Path: name, Mode: 0o644, Data: pem})
	}
	return layer, nil
}
