package enroll

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mgr/pki"
)

func TestLoadSaysWhetherToJoin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before joining: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		a, err := pki.NewAuthority()
		if err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM, err := a.NewPair(pki.Node("n1"))
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{caFile: a.PEM(), keyFile: keyPEM, certFile: certPEM} {
			if err := pki.WriteFile(filepath.Join(dir, name), data); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := Load(dir); err != nil || m.Cert.Leaf.Subject.CommonName != "system:node:n1" {
			t.Errorf("after joining: %v", err)
		}
		time.Sleep(pki.CertLifetime + time.Hour) // virtual
		if _, err := Load(dir); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "join again with a token") {
			t.Errorf("after a year away: %v", err)
		}
	})
	if err := pki.WriteFile(filepath.Join(dir, keyFile), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrExpired) {
		t.Errorf("with a damaged key: %v", err)
	}
}

func TestServerAddresses(t *testing.T) {
	got, err := baseURLs([]string{"10.0.0.1", "10.0.0.2:7443", "https://m3:6443/", "https://m4", "::1", "[::1]:7443", "[::1]"})
	want := "https://10.0.0.1:6443 https://10.0.0.2:7443 https://m3:6443 https://m4:6443 https://[::1]:6443 https://[::1]:7443 https://[::1]:6443"
	if err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range [][]string{nil, {""}, {"http://x"}, {"https://x/path"}, {"a b"}, {"user@x"}} {
		if got, err := baseURLs(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestUnreachableServersAreNamed(t *testing.T) {
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.NewToken(pki.RoleAgent, a.Trust)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Join(t.Context(), t.TempDir(), []string{"127.0.0.1:1"}, token.Text(), "n1")
	if err == nil || !strings.Contains(err.Error(), `joining as node "n1": asking https://127.0.0.1:1 for its CA certificate`) || strings.Contains(err.Error(), token.Secret) {
		t.Errorf("got %v", err)
	}
}

func TestMachineKeepsOnlyItsOwnNextCertificate(t *testing.T) {
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certPEM, keyPEM, err := a.NewPair(pki.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{caFile: a.PEM(), keyFile: keyPEM, certFile: certPEM} {
		if err := pki.WriteFile(filepath.Join(dir, name), data); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(id pki.Identity) []byte {
		t.Helper()
		p, err := a.Issue(m.key.Public(), id)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	foreign, _, err := a.NewPair(pki.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{"another name": issue(pki.Node("n2")), "another key": foreign, "nothing": nil} {
		if got, err := m.renewed(m.Cert, bad); err == nil {
			t.Errorf("%s: %v", what, got.Leaf.Subject)
		}
	}
	next := issue(pki.Node("n1"))
	if _, err := m.renewed(m.Cert, next); err != nil {
		t.Fatal(err)
	}
	again, err := Load(dir)
	if err != nil || again.Cert.Leaf.SerialNumber.Cmp(m.Cert.Leaf.SerialNumber) == 0 {
		t.Errorf("the next certificate was not kept: %v", err)
	}
}
