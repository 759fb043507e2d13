package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAuthorityIsKeptPrivatelyAndReadBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load of nothing: %v", err)
	}
	a, err := Bootstrap(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.Hash() != b.Hash() || !a.caKey.Equal(b.caKey) || !a.SigningKey.Equal(b.SigningKey) {
		t.Error("the load gave another authority")
	}
	if _, err := Bootstrap(dir); err == nil {
		t.Error("Bootstrap overwrote an authority")
	}
	err = filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == filepath.Dir(dir) {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestForeignKeyIsRefused(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	if _, err := Bootstrap(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Bootstrap(other); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(other, caKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, caKeyFile), key); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("Load with a foreign key: %v", err)
	}
}

func TestIssuedCertificates(t *testing.T) {
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		id    Identity
		usage x509.ExtKeyUsage
		name  string // to verify for
		ok    bool
	}{
		{Master("m1", "cluster.local", net.ParseIP("10.43.0.1"), "10.99.0.2", "m1.example"), x509.ExtKeyUsageServerAuth, "m1", true},
		{Master("m1", "cluster.local", net.ParseIP("10.43.0.1"), "10.99.0.2"), x509.ExtKeyUsageServerAuth, "10.99.0.2", true},
		{Master("m1", "cluster.local", net.ParseIP("10.43.0.1")), x509.ExtKeyUsageServerAuth, "10.43.0.1", true},
		{Master("m1", "cluster.local", nil), x509.ExtKeyUsageServerAuth, "kubernetes.default.svc.cluster.local", true},
		{Master("m1", "cluster.local", nil), x509.ExtKeyUsageServerAuth, "m2", false},
		{Master("m1", "cluster.local", nil), x509.ExtKeyUsageClientAuth, "", true},
		{Node("n1"), x509.ExtKeyUsageClientAuth, "", true},
		{Node("n1"), x509.ExtKeyUsageServerAuth, "", false},
		{Admin(), x509.ExtKeyUsageServerAuth, "", false},
	} {
		pair, err := a.NewTLS(tt.id)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: tt.name, KeyUsages: []x509.ExtKeyUsage{tt.usage}})
		if (err == nil) != tt.ok {
			t.Errorf("%s for usage %v as %q: %v", tt.id.Name, tt.usage, tt.name, err)
		}
		if life := pair.Leaf.NotAfter.Sub(time.Now()); life > CertLifetime {
			t.Errorf("%s lives %v", tt.id.Name, life)
		}
	}
}

func TestRequestDecidesNothingButTheKey(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewRequest(key, Identity{})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParseRequest(csr)
	if err != nil || !key.PublicKey.Equal(pub) {
		t.Errorf("ParseRequest: %v", err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), csr[:len(csr)/2], encodePEM("CERTIFICATE REQUEST", []byte{1, 2})} {
		if _, err := ParseRequest(bad); err == nil {
			t.Errorf("ParseRequest accepted %q", bad)
		}
	}
}

func TestCertificatesRenewThemselves(t *testing.T) {
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		b := *a
		b.now = time.Now
		first, err := b.NewTLS(Admin())
		if err != nil {
			t.Fatal(err)
		}
		fail := true
		r := NewRenewing(first, quiet(), func(context.Context, *tls.Certificate) (*tls.Certificate, error) {
			if fail {
				fail = false
				return nil, errors.New("no master answers")
			}
			return b.NewTLS(Admin())
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(CertLifetime/3*2 - time.Hour) // virtual
		synctest.Wait()
		if r.Current() != first {
			t.Error("renewed before two thirds of its life")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if r.Current() == first {
			t.Error("not renewed after two thirds of its life, although the second try succeeds")
		}
		cancel()
		<-done
	})
}

// Every master derives the same CA for front proxies, and what it signs is nobody to the cluster.
func TestFrontProxiesHaveACAOfTheirOwn(t *testing.T) {
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Secrets()
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromSecrets(s)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.FrontProxy().PEM(), b.FrontProxy().PEM()) {
		t.Error("two masters have different CAs for front proxies")
	}
	other, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if a.FrontProxy().Hash() == other.FrontProxy().Hash() || a.FrontProxy().Cert.PublicKey.(*ecdsa.PublicKey).Equal(a.Cert.PublicKey) {
		t.Error("the CA for front proxies is not this cluster's own")
	}
	certPEM, keyPEM, err := b.NewFrontProxyPair()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := PairTLS(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	chains, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: a.FrontProxy().Pool(), KeyUsages: client})
	if err != nil || pair.Leaf.Subject.CommonName != FrontProxyName {
		t.Fatalf("%v: %v", pair.Leaf.Subject, err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: client}); err == nil {
		t.Error("a front proxy's certificate is one of the cluster")
	}
	cs := &tls.ConnectionState{VerifiedChains: chains}
	if p, ok := PeerOf(cs); ok {
		t.Errorf("a front proxy is the peer %v", p)
	}
	if leaf, ok := FrontProxyOf(cs); !ok || leaf != pair.Leaf {
		t.Error("a front proxy is not known as one")
	}
	admin, err := a.NewTLS(Admin())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := FrontProxyOf(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{admin.Leaf, a.Cert}}}); ok {
		t.Error("an administrator is a front proxy")
	}
}
