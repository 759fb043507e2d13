package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// registry serves the images of the tests to nodes that are told to pull them always: the parts of the OCI distribution
// specification that a pull needs, read only, over an OCI layout that has been unpacked into a directory.
type registry struct {
	dir       string
	manifests map[string]descriptor // by name:tag, without the registry's own name
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations"`
}

// upstream is the registry that this one stands in for.
const upstream = "registry.k8s.io"

func openRegistry(archive, dir string) (*registry, error) {
	if err := unpack(archive, dir); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", archive, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, fmt.Errorf("%s: index.json: %w", archive, err)
	}
	r := &registry{dir: dir, manifests: map[string]descriptor{}}
	for _, m := range index.Manifests {
		r.manifests[strings.TrimPrefix(m.Annotations["io.containerd.image.name"], upstream+"/")] = m
	}
	return r, nil
}

func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		to := filepath.Join(dir, path.Clean("/"+h.Name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		out, err := os.Create(to)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, t)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}

// ServeHTTP implements http.Handler.
func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	name, ok := strings.CutPrefix(q.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, q)
		return
	}
	if repo, reference, ok := cutLast(name, "/manifests/"); ok {
		d, known := r.manifests[repo+":"+reference]
		if !known { // by digest, then
			d = descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: reference}
		}
		r.blob(w, q, d)
		return
	}
	if _, digest, ok := cutLast(name, "/blobs/"); ok {
		r.blob(w, q, descriptor{MediaType: "application/octet-stream", Digest: digest})
	}
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (r *registry) blob(w http.ResponseWriter, q *http.Request, d descriptor) {
	algorithm, sum, _ := strings.Cut(d.Digest, ":")
	if algorithm != "sha256" || sum == "" || strings.Trim(sum, "0123456789abcdef") != "" {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Content-Type", d.MediaType)
	w.Header().Set("Docker-Content-Digest", d.Digest)
	http.ServeFile(w, q, filepath.Join(r.dir, "blobs", algorithm, sum))
}

// serveRegistry serves at an address that the cluster's hosts reach once they exist, and writes the directory of hosts.toml files that
// makes agents ask there for upstream's images.
func serveRegistry(o options) (config string, stop func(), err error) {
	r, err := openRegistry(filepath.Join(o.dir, "images.tar.gz"), filepath.Join(o.dir, "registry"))
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: r}
	go func() { _ = server.Serve(listener) }() // it ends with Close
	gateway, _, err := net.ParseCIDR(o.subnet)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("-subnet: %w", err), server.Close())
	}
	gateway = gateway.To4()
	gateway[3] = 1 // this machine's address on the hosts' bridge
	url := "http://" + net.JoinHostPort(gateway.String(), fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
	config = filepath.Join(o.dir, "certs.d")
	if err := os.MkdirAll(filepath.Join(config, upstream), 0o755); err == nil {
		err = os.WriteFile(filepath.Join(config, upstream, "hosts.toml"), fmt.Appendf(nil, "server = %q\n\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", url, url), 0o644)
	}
	if err != nil {
		return "", nil, errors.Join(err, server.Close())
	}
	return config, func() { server.Close() }, nil
}
