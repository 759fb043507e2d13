package containerd_test

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"mgr/agent"
	"mgr/agent/image"
	"mgr/agent/registry"
)

// distributor serves one image by the distribution protocol, to who knows the password.
type distributor struct {
	*httptest.Server
	host           string
	user, password string // "": open to all
	blobs          map[string][]byte
	manifest       ocispec.Descriptor

	mu     sync.Mutex
	asked  map[string]int  // method and last part of the path
	shown  map[string]bool // users that were named
	ranges []string        // of blobs
	answer func(w http.ResponseWriter, r *http.Request, blob []byte) (done bool)
}

func distribute(t *testing.T, img image.Image, user, password string) *distributor {
	t.Helper()
	d := &distributor{user: user, password: password, blobs: map[string][]byte{}, asked: map[string]int{}, shown: map[string]bool{}}
	tr := tar.NewReader(bytes.NewReader(archive(t, oci, img)))
	for h, err := tr.Next(); err == nil; h, err = tr.Next() {
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		d.blobs[h.Name] = data
	}
	var index ocispec.Index
	if err := json.Unmarshal(d.blobs["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	d.manifest = index.Manifests[0]
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	d.host = strings.TrimPrefix(d.URL, "http://")
	return d
}

func (d *distributor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u, p, ok := r.BasicAuth()
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	d.mu.Lock()
	d.asked[r.Method+" "+name]++
	if ok {
		d.shown[u+":"+p] = true
	}
	answer := d.answer
	d.mu.Unlock()
	if d.user != "" && (u != d.user || p != d.password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	if strings.Contains(r.URL.Path, "/manifests/") && name == "1" {
		name = d.manifest.Digest.String()
	}
	data, ok := d.blobs["blobs/sha256/"+strings.TrimPrefix(name, "sha256:")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if name == d.manifest.Digest.String() {
		w.Header().Set("Content-Type", d.manifest.MediaType)
	} else {
		d.mu.Lock()
		d.ranges = append(d.ranges, r.Header.Get("Range"))
		d.mu.Unlock()
		if answer != nil && answer(w, r, data) {
			return
		}
	}
	w.Header().Set("Docker-Content-Digest", name)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (d *distributor) set(answer func(w http.ResponseWriter, r *http.Request, blob []byte) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

// requests counts what the registry was asked for since the last call.
func (d *distributor) requests() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = map[string]int{}
	return asked
}

func ringOf(entries ...string) registry.Keyring {
	var ring registry.Keyring
	for _, e := range entries {
		parts := strings.Split(e, " ")
		ring = append(ring, registry.Credential{Key: parts[0], Username: parts[1], Password: parts[2]})
	}
	return ring
}

func TestPullFromPrivateRegistry(t *testing.T) {
	n := newNode(t)
	d := distribute(t, small("x:1", "private"), "ann", "secret")
	ref := d.host + "/team/app:1"
	if _, err := n.Pull(t.Context(), ref, nil); err == nil || !strings.Contains(err.Error(), "failed to pull and unpack image \""+ref) ||
		!strings.Contains(err.Error(), "authorization failed") {
		t.Errorf("without a password: %v", err)
	}
	ring := ringOf(d.host+"/team bob guess", d.host+" ann secret", "else.example.com eve hidden")
	got, err := n.Pull(t.Context(), ref, ring)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Names, []string{ref}) || got.User != "12:34" || !strings.HasPrefix(got.Digests[0], d.host+"/team/app@sha256:") ||
		got.Used == nil || got.Used.Username != "ann" || got.Pinned {
		t.Errorf("%+v", got)
	}
	if d.shown["eve:hidden"] {
		t.Error("the registry was shown another one's password")
	}
	id, err := n.CreateContainer(t.Context(), agent.ContainerSpec{Pod: n.pod("pulled"), Name: "x", Image: ref, ImageID: got.Digests[0]})
	if err != nil || n.container(id).ImageID != got.Digests[0] {
		t.Errorf("a container from it: %v", err)
	}
	if _, err := n.Pull(t.Context(), d.host+"/team/app@sha256:"+strings.Repeat("0", 64), ring); err == nil {
		t.Error("pulled a digest that is not there")
	}
	d.requests()
	if _, err := n.Pull(t.Context(), ref, ring); err != nil {
		t.Fatal(err)
	}
	for what, count := range d.requests() {
		if strings.HasPrefix(what, "GET ") {
			t.Errorf("pulling what is there has downloaded %q %d times", what, count)
		}
	}
	for _, byDigest := range []string{d.host + "/team/app@" + d.manifest.Digest.String(), d.host + "/team/app:9@" + d.manifest.Digest.String()} {
		if found, err := n.Image(t.Context(), byDigest); err != nil || found.ID != got.ID {
			t.Errorf("by digest %s: %+v, %v", byDigest, found, err)
		}
	}
	demo, err := n.Image(t.Context(), "mgr/demo:1")
	if err != nil || !demo.Pinned {
		t.Errorf("an imported image is not pinned: %+v, %v", demo, err)
	}
}

// hosts configures a registry's mirrors for the node.
func (n *node) hosts(registry, toml string) {
	n.t.Helper()
	dir := filepath.Join(n.dir, "certs.d", registry)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func TestMirrorsGetTheirOwnPasswordsOnly(t *testing.T) {
	n := newNode(t)
	img := small("x:1", "mirrored")
	mirror, origin := distribute(t, img, "mirror-user", "m"), distribute(t, img, "ann", "secret")
	n.hosts("registry.example.com", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", origin.URL, mirror.URL))
	ref := "registry.example.com/team/app:1"
	got, err := n.Pull(t.Context(), ref, ringOf(mirror.host+" mirror-user m", "registry.example.com ann secret"))
	if err != nil || !slices.Equal(got.Names, []string{ref}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if mirror.shown["ann:secret"] || len(origin.requests()) != 0 {
		t.Errorf("the mirror was shown %v; the origin was asked too", mirror.shown)
	}
	mirror.Close() // the origin takes its place
	if err := n.RemoveImage(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Pull(t.Context(), ref, ringOf(origin.host+" ann secret")); err != nil {
		t.Errorf("with the mirror down: %v", err)
	}
	if gets := origin.requests()["GET "+origin.manifest.Digest.String()]; gets == 0 {
		t.Error("the origin was not asked")
	}
}

func TestPullOfAHangingRegistryEnds(t *testing.T) {
	n := newNode(t)
	d := distribute(t, small("x:1", "slow"), "", "")
	n.patience = 300 * time.Millisecond
	n.reopen()
	d.set(func(w http.ResponseWriter, r *http.Request, blob []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		_, _ = w.Write(blob[:1])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	_, err := n.Pull(t.Context(), d.host+"/app:1", nil)
	if err == nil || !strings.Contains(err.Error(), "the registry has sent nothing for 300ms") {
		t.Errorf("a pull from a registry that hangs: %v", err)
	}
	d.set(nil)
	if _, err := n.Pull(t.Context(), d.host+"/app:1", nil); err != nil {
		t.Errorf("when it answers again: %v", err)
	}
}

func TestInterruptedPullGoesOn(t *testing.T) {
	n := newNode(t)
	big := make([]byte, 4<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	img := small("x:1", "big")
	img.Layers = append(img.Layers, image.Layer{{Path: "big", Mode: 0o644, Data: big}})
	d := distribute(t, img, "", "")
	cut := func(w http.ResponseWriter, _ *http.Request, blob []byte) bool {
		if len(blob) < len(big) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		_, _ = w.Write(blob[:3<<20])
		panic(http.ErrAbortHandler)
	}
	d.set(cut)
	if _, err := n.Pull(t.Context(), d.host+"/app:1", nil); err == nil {
		t.Fatal("a pull succeeded whose connections were cut")
	}
	d.set(nil)
	d.mu.Lock()
	d.ranges = nil
	d.mu.Unlock()
	if _, err := n.Pull(t.Context(), d.host+"/app:1", nil); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(d.ranges, func(r string) bool { return strings.HasPrefix(r, "bytes=") && !strings.HasPrefix(r, "bytes=0-") }) {
		t.Errorf("the pull began anew: ranges %q", d.ranges)
	}
	// What failed and is not wanted any more can be given up.
	d.set(cut)
	if err := n.RemoveImage(t.Context(), d.host+"/app:1"); err != nil {
		t.Fatal(err)
	}
	before := n.contentSize()
	if _, err := n.Pull(t.Context(), d.host+"/app:1", nil); err == nil {
		t.Fatal("a pull succeeded whose connections were cut")
	}
	if size := n.contentSize(); size < before+3<<20 {
		t.Errorf("an unfinished pull has left %d bytes", size-before)
	}
	if err := n.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.eventually("the parts of an unfinished pull are gone", func() bool { return n.contentSize() < before+1<<20 })
}

// contentSize is what containerd's store of blobs holds, finished or not.
func (n *node) contentSize() (size int64) {
	root := filepath.Join(n.dir, "containerd")
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(path, "content") {
			return nil // files come and go
		}
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return size
}
