package main

import (
	"archive/tar"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
)

func TestRegistryServesALayout(t *testing.T) {
	const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	archive := filepath.Join(t.TempDir(), "images.tar.gz")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{
		"index.json":          `{"manifests":[{"mediaType":"m/t","digest":"sha256:` + sum + `","annotations":{"io.containerd.image.name":"registry.k8s.io/a/b:1"}}]}`,
		"blobs/sha256/" + sum: "the manifest", "../../outside": "stays inside",
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if w.Close() != nil || z.Close() != nil || f.Close() != nil {
		t.Fatal("writing the archive")
	}
	r, err := openRegistry(archive, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/v2/": 200, "/v2/a/b/manifests/1": 200, "/v2/a/b/manifests/sha256:" + sum: 200, "/v2/a/b/blobs/sha256:" + sum: 200,
		"/v2/a/b/manifests/2": 404, "/v2/a/b/blobs/sha256:../../index.json": 404, "/index.json": 404,
	} {
		answer := httptest.NewRecorder()
		r.ServeHTTP(answer, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}, Header: http.Header{}})
		if answer.Code != want {
			t.Errorf("%s: %d, not %d", path, answer.Code, want)
		}
		if want == 200 && path != "/v2/" && answer.Body.String() != "the manifest" {
			t.Errorf("%s: %q", path, answer.Body)
		}
	}
}
