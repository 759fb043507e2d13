package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"
)

// Organisations and names that certificates carry.
const (
	OrgAdmins  = "system:masters" // administrators: everything is allowed
	OrgMasters = "mgr:masters"    // master peers
	OrgNodes   = "system:nodes"   // agents

	AdminName  = "mgr-admin"
	NodePrefix = "system:node:" // user names of agents: NodePrefix + node name
)

// How far a peer's clock may be behind without refusing a fresh certificate: one that masters and nodes live by, whose clock may jump by
// an hour and more when somebody takes local time for UTC, or one that somebody asked for, which may be good for minutes.
const (
	ownSkew   = time.Hour + 5*time.Minute
	clockSkew = 5 * time.Minute
)

// Identity is what a certificate says about its holder.
type Identity struct {
	Name   string   // CN: the user name
	Orgs   []string // O: the groups
	DNS    []string // SAN; empty for pure clients
	IPs    []net.IP // SAN
	Server bool     // may serve TLS, not only dial
}

// Admin is the identity of the cluster's administrator.
func Admin() Identity { return Identity{Name: AdminName, Orgs: []string{OrgAdmins}} }

// Node is the identity of an agent.
func Node(name string) Identity {
	return Identity{Name: NodePrefix + name, Orgs: []string{OrgNodes}}
}

// Master is the identity of master peer id, reachable at hosts (IP addresses or DNS names) besides the names and
// addresses that every master answers to.
func Master(id, clusterDomain string, serviceIP net.IP, hosts ...string) Identity {
	m := Identity{
		Name:   id,
		Orgs:   []string{OrgMasters},
		Server: true,
		DNS: []string{id, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + clusterDomain, "localhost"},
		IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if serviceIP != nil {
		m.IPs = append(m.IPs, serviceIP)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			if !slices.ContainsFunc(m.IPs, ip.Equal) {
				m.IPs = append(m.IPs, ip)
			}
		} else if h != "" && !slices.Contains(m.DNS, h) {
			m.DNS = append(m.DNS, h)
		}
	}
	return m
}

// Issue signs a certificate for the holder of the private key to pub; it is valid for CertLifetime, or until the CA
// expires.
func (a *Authority) Issue(pub crypto.PublicKey, id Identity) (certPEM []byte, err error) {
	if id.Name == "" {
		return nil, errors.New("issuing a certificate: it has no name")
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := a.now()
	notAfter := now.Add(CertLifetime)
	if notAfter.After(a.Cert.NotAfter) {
		notAfter = a.Cert.NotAfter
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: id.Name, Organization: id.Orgs},
		DNSNames:              id.DNS,
		IPAddresses:           id.IPs,
		NotBefore:             now.Add(-ownSkew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.Cert, pub, a.caKey)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", id.Name, err)
	}
	return encodePEM("CERTIFICATE", der), nil
}

// Grant is what a certificate that somebody asked for may be used for, and how long.
type Grant struct {
	KeyUsage    x509.KeyUsage
	ExtKeyUsage []x509.ExtKeyUsage
	Life        time.Duration
}

// shortLife is below what a certificate counts as short-lived: it ends when its life is over, not five minutes earlier.
const shortLife = 8 * time.Hour

// ErrReserved: a request asks for a group that only this package's own identities carry.
var ErrReserved = errors.New("the group is reserved")

// IssueRequest signs what csr asks for: its subject, its alternative names and its key, for the uses and the life of g, until
// the CA expires at the latest. Nobody becomes an administrator or a master this way (ErrReserved).
func (a *Authority) IssueRequest(csr *x509.CertificateRequest, g Grant) (certPEM []byte, err error) {
	for _, org := range []string{OrgAdmins, OrgMasters} {
		if slices.Contains(csr.Subject.Organization, org) {
			return nil, fmt.Errorf("signing the request of %q: %w: %s", csr.Subject.CommonName, ErrReserved, org)
		}
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := a.now()
	notAfter := now.Add(g.Life)
	if g.Life >= shortLife {
		notAfter = notAfter.Add(-clockSkew)
	}
	if notAfter.After(a.Cert.NotAfter) {
		notAfter = a.Cert.NotAfter
	}
	if !now.Before(notAfter) {
		return nil, fmt.Errorf("signing the request of %q: the cluster CA expired at %s", csr.Subject.CommonName, a.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		Subject:               csr.Subject,
		DNSNames:              csr.DNSNames,
		IPAddresses:           csr.IPAddresses,
		EmailAddresses:        csr.EmailAddresses,
		URIs:                  csr.URIs,
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              notAfter,
		KeyUsage:              g.KeyUsage,
		ExtKeyUsage:           g.ExtKeyUsage,
		BasicConstraintsValid: true,
	}, a.Cert, csr.PublicKey, a.caKey)
	if err != nil {
		return nil, fmt.Errorf("signing the request of %q: %w", csr.Subject.CommonName, err)
	}
	return encodePEM("CERTIFICATE", der), nil
}

// NewPair makes a key and a certificate for it.
func (a *Authority) NewPair(id Identity) (certPEM, keyPEM []byte, err error) {
	key, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	if certPEM, err = a.Issue(key.Public(), id); err != nil {
		return nil, nil, err
	}
	keyPEM, err = MarshalKey(key)
	return certPEM, keyPEM, err
}

// NewTLS is NewPair for immediate use.
func (a *Authority) NewTLS(id Identity) (*tls.Certificate, error) {
	certPEM, keyPEM, err := a.NewPair(id)
	if err != nil {
		return nil, err
	}
	return PairTLS(certPEM, keyPEM)
}

// PairTLS makes a tls.Certificate, with its leaf parsed, of a certificate and its key.
func PairTLS(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	return &pair, nil
}

// NewRequest makes a certificate request that proves possession of key. Who asks for the certificate of a node with a join
// token leaves the identity empty: the issuer decides.
func NewRequest(key crypto.Signer, id Identity) (csrPEM []byte, err error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: id.Name, Organization: id.Orgs}, DNSNames: id.DNS, IPAddresses: id.IPs,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return encodePEM("CERTIFICATE REQUEST", der), nil
}

// ParseRequest checks a certificate request and returns its public key.
func ParseRequest(csrPEM []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("certificate request: no PEM block of type CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed by its own key: %w", err)
	}
	return csr.PublicKey, nil
}

// KeyHash is the SHA-256 of a public key (SubjectPublicKeyInfo) in hex. It outlives renewals, so it tells machines apart.
func KeyHash(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("hashing a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Peer is who is at the other end of a connection, as its verified certificate says.
type Peer struct {
	Name string
	Orgs []string
	Leaf *x509.Certificate
}

// PeerOf returns the verified client of a connection; false when it presented no certificate of the cluster CA.
func PeerOf(cs *tls.ConnectionState) (Peer, bool) {
	if cs == nil || len(cs.VerifiedChains) == 0 || ofFrontProxies(cs.VerifiedChains[0]) {
		return Peer{}, false
	}
	leaf := cs.VerifiedChains[0][0]
	return Peer{Name: leaf.Subject.CommonName, Orgs: leaf.Subject.Organization, Leaf: leaf}, true
}

// In says whether the peer belongs to org.
func (p Peer) In(org string) bool { return slices.Contains(p.Orgs, org) }

// Node returns the node's name when the peer is an agent.
func (p Peer) Node() (string, bool) {
	name, ok := strings.CutPrefix(p.Name, NodePrefix)
	return name, ok && name != "" && p.In(OrgNodes)
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
