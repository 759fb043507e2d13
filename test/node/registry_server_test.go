package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"mgr/agent/image"
	"mgr/test/cluster"
)

// privateRegistry is Debian's docker-registry with a password, behind a proxy with TLS at an address that the nodes reach.
type privateRegistry struct {
	t         testing.TB
	Addr      string // host:port, as in image names
	CA        []byte // PEM
	front     *http.Server
	listener  net.Listener
	tls       *tls.Config
	transport http.RoundTripper
	back      *url.URL

	mu    sync.Mutex
	asked []string // method and path
}

const registryUser, registryPassword = "ann", "open sesame"

// startRegistry starts it on the gateway of the nodes' network.
func startRegistry(t testing.TB) *privateRegistry {
	t.Helper()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Fatal("docker-registry is missing: make deps")
	}
	r := &privateRegistry{t: t, back: &url.URL{Scheme: "http"}, transport: http.DefaultTransport}
	r.startBack()
	gateway := gatewayOf(t, shared.Node("node-1"))
	r.certify(gateway)
	r.listen(net.JoinHostPort(gateway.String(), "0"))
	t.Cleanup(r.Down)
	return r
}

// gatewayOf is this machine's address in a node's network.
func gatewayOf(t testing.TB, n *cluster.Node) net.IP {
	t.Helper()
	out := n.InNet(t.Context(), "ip", "-json", "route", "show", "default")
	var routes []struct{ Gateway net.IP }
	if err := json.Unmarshal([]byte(out.Stdout), &routes); err != nil || len(routes) == 0 {
		t.Fatalf("%s has no default route: %+v, %v", n.Name, out, err)
	}
	return routes[0].Gateway
}

func (r *privateRegistry) startBack() {
	r.t.Helper()
	dir := r.t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte(registryPassword), bcrypt.MinCost)
	if err != nil {
		r.t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.back.Host = free.Addr().String()
	free.Close()
	config := fmt.Sprintf(`
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s/data}, maintenance: {uploadpurging: {enabled: false}}}
http: {addr: %q, relativeurls: true, secret: test}
auth: {htpasswd: {realm: test, path: %s/htpasswd}}
`, dir, r.back.Host, dir)
	for name, text := range map[string]string{"config.yml": config, "htpasswd": registryUser + ":" + string(hash) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "docker-registry", "serve", filepath.Join(dir, "config.yml"))
	var says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &says, &says
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if r.t.Failed() {
			r.t.Logf("docker-registry says:\n%s", says.String())
		}
	})
	cluster.Eventually(r.t, 20*time.Second, "docker-registry answers", func(context.Context) error {
		resp, err := http.Get(r.back.String() + "/v2/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// certify makes a certificate that is its own authority.
func (r *privateRegistry) certify(ip net.IP) {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{ip}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	r.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func (r *privateRegistry) listen(addr string) {
	r.t.Helper()
	var err error
	if r.listener, err = net.Listen("tcp", addr); err != nil {
		r.t.Fatal(err)
	}
	r.Addr = r.listener.Addr().String()
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(r.back); p.Out.Host = p.In.Host }, Transport: r.transport}
	r.front = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		proxy.ServeHTTP(w, req)
	}), ReadHeaderTimeout: time.Minute}
	front, listener := r.front, tls.NewListener(r.listener, r.tls)
	go func() { _ = front.Serve(listener) }() // until Down closes it
}

// Down makes the registry's address refuse connections; Up undoes that.
func (r *privateRegistry) Down() { _ = r.front.Close() }

// Up listens again where it did before.
func (r *privateRegistry) Up() { r.listen(r.Addr) }

// Asked counts requests that contain all the words, and forgets none.
func (r *privateRegistry) Asked(words ...string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
next:
	for _, a := range r.asked {
		for _, w := range words {
			if !strings.Contains(a, w) {
				continue next
			}
		}
		n++
	}
	return n
}

// Push puts an image with a shell into the registry, as repository:tag; marker makes its layer different from others'. It returns
// the manifest's digest and the layer's.
func (r *privateRegistry) Push(repository, tag, marker string) (manifest, layer string) {
	r.t.Helper()
	shell, err := os.ReadFile("/bin/busybox")
	if err != nil {
		r.t.Fatal(err)
	}
	var archive bytes.Buffer
	err = image.WriteOCI(&archive, image.Image{Name: repository + ":" + tag,
		Layers: []image.Layer{{{Path: "bin/busybox", Mode: 0o755, Data: shell}, {Path: "bin/sh", Link: "busybox"}, {Path: "bin/sleep", Link: "busybox"},
			{Path: "marker", Mode: 0o644, Data: []byte(marker)}}},
		Config: ocispec.ImageConfig{Cmd: []string{"/bin/sleep", "3600"}, Env: []string{"PATH=/bin"}}})
	if err != nil {
		r.t.Fatal(err)
	}
	blobs := map[string][]byte{}
	tr := tar.NewReader(&archive)
	for h, err := tr.Next(); !errors.Is(err, io.EOF); h, err = tr.Next() {
		if err != nil {
			r.t.Fatal(err)
		}
		if blobs[h.Name], err = io.ReadAll(tr); err != nil {
			r.t.Fatal(err)
		}
	}
	var index ocispec.Index
	var m ocispec.Manifest
	blob := func(d ocispec.Descriptor) []byte { return blobs["blobs/sha256/"+d.Digest.Encoded()] }
	if err := json.Unmarshal(blobs["index.json"], &index); err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(blob(index.Manifests[0]), &m); err != nil {
		r.t.Fatal(err)
	}
	for _, d := range append(m.Layers, m.Config) {
		upload := r.send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", nil, http.StatusAccepted)
		at, err := url.Parse(upload.Get("Location"))
		if err != nil {
			r.t.Fatal(err)
		}
		q := at.Query()
		q.Set("digest", d.Digest.String())
		r.send(http.MethodPut, at.Path+"?"+q.Encode(), "application/octet-stream", blob(d), http.StatusCreated)
	}
	r.send(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, index.Manifests[0].MediaType, blob(index.Manifests[0]), http.StatusCreated)
	return index.Manifests[0].Digest.String(), m.Layers[0].Digest.String()
}

func (r *privateRegistry) send(method, path, kind string, body []byte, want int) http.Header {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.back.String()+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.SetBasicAuth(registryUser, registryPassword)
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if says, _ := io.ReadAll(resp.Body); resp.StatusCode != want {
		r.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, says)
	}
	return resp.Header
}
