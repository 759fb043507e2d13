package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"mgr/pki"
)

// Files of an agent below its pki directory.
const (
	caFile   = "ca.crt"
	keyFile  = "agent.key"
	certFile = "agent.crt"
)

// Machine is a node's place in a cluster, kept in a directory. Its key is made once and outlives certificates: the
// cluster binds the node's name to it.
type Machine struct {
	Trust pki.Trust
	Cert  *tls.Certificate

	dir string
	key *ecdsa.PrivateKey
}

// ErrExpired: the machine was away for so long that it cannot renew its certificate any more; it must join again, which
// keeps its key and so its name.
var ErrExpired = errors.New("the node's certificate has expired: join again with a token")

// Load reads what an earlier Join kept in dir; the error wraps fs.ErrNotExist when there is nothing, ErrExpired when it is of
// no use any more.
func Load(dir string) (*Machine, error) {
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("loading the node's certificate: %w", err)
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, certFile))
	if err != nil {
		return nil, fmt.Errorf("loading the node's certificate: %w", err)
	}
	key, err := loadKey(dir)
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, key: key}
	if m.Trust, err = pki.ParseTrust(ca); err != nil {
		return nil, err
	}
	if err := m.use(certPEM); err != nil {
		return nil, err
	}
	if end := m.Cert.Leaf.NotAfter; time.Now().After(end) {
		return nil, fmt.Errorf("%w (it was good until %s)", ErrExpired, end.UTC().Format(time.RFC3339))
	}
	return m, nil
}

func (m *Machine) use(certPEM []byte) error {
	keyPEM, err := pki.MarshalKey(m.key)
	if err != nil {
		return err
	}
	m.Cert, err = pki.PairTLS(certPEM, keyPEM)
	return err
}

func loadKey(dir string) (*ecdsa.PrivateKey, error) {
	keyPEM, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("loading the node's key: %w", err)
	}
	key, err := pki.ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("loading the node's key from %s: %w", dir, err)
	}
	return key, nil
}

// Join makes this machine the node of that name and keeps its certificate in dir; a key that is there already is kept, so
// a machine may join again.
func Join(ctx context.Context, dir string, servers []string, tokenText, node string) (*Machine, *AgentReply, error) {
	token, err := pki.ParseToken(tokenText)
	if err != nil {
		return nil, nil, err
	}
	client, err := Discover(ctx, servers, token)
	if err != nil {
		return nil, nil, fmt.Errorf("joining as node %q: %w", node, err)
	}
	m := &Machine{Trust: client.trust, dir: dir}
	if m.key, err = keepKey(dir); err != nil {
		return nil, nil, err
	}
	csr, err := pki.NewRequest(m.key, pki.Identity{})
	if err != nil {
		return nil, nil, err
	}
	var reply AgentReply
	err = client.Call(ctx, http.MethodPost, PathJoinAgent, AgentRequest{Token: token.Text(), Node: node, CSR: string(csr)}, &reply)
	if err != nil {
		return nil, nil, fmt.Errorf("joining as node %q: %w", node, err)
	}
	if err := m.use([]byte(reply.Certificate)); err != nil {
		return nil, nil, fmt.Errorf("joining as node %q: %w", node, err)
	}
	if err := pki.WriteFile(filepath.Join(dir, caFile), m.Trust.PEM()); err != nil {
		return nil, nil, err
	}
	if err := pki.WriteFile(filepath.Join(dir, certFile), []byte(reply.Certificate)); err != nil {
		return nil, nil, err
	}
	return m, &reply, nil
}

// keepKey returns the machine's key, made at the first call.
func keepKey(dir string) (*ecdsa.PrivateKey, error) {
	key, err := loadKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = pki.NewKey(); err != nil {
		return nil, err
	}
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	return key, pki.WriteFile(filepath.Join(dir, keyFile), keyPEM)
}

// Ask gets a certificate for a certificate request, both in PEM, through the API's certificates.k8s.io.
type Ask func(ctx context.Context, csrPEM []byte) (certPEM []byte, err error)

// Renewing is the machine's certificate, renewed with ask and kept on disk. When that fails, any of servers() is asked at
// PathRenew. Both give a certificate only to the key that the node joined with. The caller runs it.
func (m *Machine) Renewing(ask Ask, servers func() []string, log *slog.Logger) *pki.Renewing {
	var r *pki.Renewing
	r = pki.NewRenewing(m.Cert, log, func(ctx context.Context, current *tls.Certificate) (*tls.Certificate, error) {
		csr, err := pki.NewRequest(m.key, pki.Identity{Name: current.Leaf.Subject.CommonName, Orgs: current.Leaf.Subject.Organization})
		if err != nil {
			return nil, err
		}
		if ask != nil {
			var certPEM []byte
			if certPEM, err = ask(ctx, csr); err == nil {
				return m.renewed(current, certPEM)
			}
			log.Warn("the node's certificate was not renewed through the API; asking a master directly", "err", err)
		}
		return m.renewDirectly(ctx, r, csr, servers())
	})
	return r
}

func (m *Machine) renewDirectly(ctx context.Context, r *pki.Renewing, csr []byte, servers []string) (*tls.Certificate, error) {
	client, err := NewClient(m.Trust, r, servers)
	if err != nil {
		return nil, err
	}
	var reply RenewReply
	if err := client.Call(ctx, http.MethodPost, PathRenew, RenewRequest{CSR: string(csr)}, &reply); err != nil {
		return nil, fmt.Errorf("renewing the node's certificate: %w", err)
	}
	return m.renewed(r.Current(), []byte(reply.Certificate))
}

// renewed keeps the next certificate, if it is one for this machine.
func (m *Machine) renewed(current *tls.Certificate, certPEM []byte) (*tls.Certificate, error) {
	next := &Machine{key: m.key}
	if err := next.use(certPEM); err != nil {
		return nil, fmt.Errorf("renewing the node's certificate: %w", err)
	}
	if got, want := next.Cert.Leaf.Subject.CommonName, current.Leaf.Subject.CommonName; got != want {
		return nil, fmt.Errorf("renewing the node's certificate: the new one is for %q, not for %q", got, want)
	}
	return next.Cert, pki.WriteFile(filepath.Join(m.dir, certFile), certPEM)
}
