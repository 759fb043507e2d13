package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"mgr/failpoint"
)

// Lifetimes of what is issued.
const (
	CALifetime   = 10 * 365 * 24 * time.Hour
	CertLifetime = 365 * 24 * time.Hour
)

// Names of the files below the pki directory.
const (
	caCertFile = "ca.crt"
	caKeyFile  = "ca.key"
	saKeyFile  = "sa.key"
)

// Trust is the public half of the cluster CA: what anyone needs to verify its certificates.
type Trust struct {
	Cert *x509.Certificate
}

// ParseTrust reads a CA certificate in PEM; the first certificate counts.
func ParseTrust(pemBytes []byte) (Trust, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil || block.Type != "CERTIFICATE" {
		return Trust{}, errors.New("CA certificate: no PEM block of type CERTIFICATE")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Trust{}, fmt.Errorf("CA certificate: %w", err)
	}
	if !cert.IsCA {
		return Trust{}, fmt.Errorf("certificate of %q is not a CA", cert.Subject.CommonName)
	}
	return Trust{Cert: cert}, nil
}

// PEM is the CA certificate in PEM.
func (t Trust) PEM() []byte { return encodePEM("CERTIFICATE", t.Cert.Raw) }

// Pool holds the CA certificate and nothing else.
func (t Trust) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(t.Cert)
	return pool
}

// Hash is the SHA-256 of the CA certificate (DER) in lower-case hex: what `openssl x509 -fingerprint -sha256` prints,
// without the colons. Join tokens carry it.
func (t Trust) Hash() string {
	sum := sha256.Sum256(t.Cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Authority is the whole of it, held by masters.
type Authority struct {
	Trust
	// SigningKey signs service-account tokens.
	SigningKey *ecdsa.PrivateKey

	caKey         *ecdsa.PrivateKey
	frontProxy    Trust // see FrontProxy
	frontProxyKey *ecdsa.PrivateKey
	now           func() time.Time
}

// newAuthority adds what follows from the CA's key.
func newAuthority(ca *x509.Certificate, caKey, signingKey *ecdsa.PrivateKey) (*Authority, error) {
	frontProxy, frontProxyKey, err := deriveFrontProxy(ca, caKey)
	if err != nil {
		return nil, err
	}
	return &Authority{Trust: Trust{ca}, SigningKey: signingKey, caKey: caKey, frontProxy: frontProxy, frontProxyKey: frontProxyKey, now: time.Now}, nil
}

// Secrets are the private parts that a joining master is given. They must never be logged.
type Secrets struct {
	CACert     []byte `json:"caCert"`     // PEM
	CAKey      []byte `json:"caKey"`      // PEM, PKCS #8
	SigningKey []byte `json:"signingKey"` // PEM, PKCS #8
}

// NewAuthority makes the CA and the signing key of a new cluster, in memory.
func NewAuthority() (*Authority, error) {
	caKey, err := NewKey()
	if err != nil {
		return nil, err
	}
	saKey, err := NewKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: fmt.Sprintf("mgr-ca@%d", now.Unix())},
		NotBefore:             now.Add(-ownSkew),
		NotAfter:              now.Add(CALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("signing the CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the CA certificate: %w", err)
	}
	return newAuthority(cert, caKey, saKey)
}

// Exists says whether dir holds an authority.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, caKeyFile))
	return err == nil
}

// Bootstrap makes a new authority and keeps it in dir; it is an error when dir already holds one.
func Bootstrap(dir string) (*Authority, error) {
	if Exists(dir) {
		return nil, fmt.Errorf("%s already holds a cluster CA: this master belongs to a cluster", dir)
	}
	a, err := NewAuthority()
	if err != nil {
		return nil, err
	}
	return a, a.Save(dir)
}

// Load reads the authority kept in dir. The error wraps fs.ErrNotExist when there is none.
func Load(dir string) (*Authority, error) {
	var s Secrets
	for _, f := range []struct {
		name string
		into *[]byte
	}{{caCertFile, &s.CACert}, {caKeyFile, &s.CAKey}, {saKeyFile, &s.SigningKey}} {
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return nil, fmt.Errorf("loading the cluster CA: %w", err)
		}
		*f.into = b
	}
	a, err := FromSecrets(s)
	if err != nil {
		return nil, fmt.Errorf("loading the cluster CA from %s: %w", dir, err)
	}
	return a, nil
}

// FromSecrets builds an authority from what a master of the cluster handed out.
func FromSecrets(s Secrets) (*Authority, error) {
	trust, err := ParseTrust(s.CACert)
	if err != nil {
		return nil, err
	}
	caKey, err := ParseKey(s.CAKey)
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	if !caKey.PublicKey.Equal(trust.Cert.PublicKey) {
		return nil, errors.New("CA key and CA certificate do not belong together")
	}
	saKey, err := ParseKey(s.SigningKey)
	if err != nil {
		return nil, fmt.Errorf("service-account signing key: %w", err)
	}
	return newAuthority(trust.Cert, caKey, saKey)
}

// Secrets exports the authority for a joining master.
func (a *Authority) Secrets() (Secrets, error) {
	caKey, err := MarshalKey(a.caKey)
	if err != nil {
		return Secrets{}, err
	}
	saKey, err := MarshalKey(a.SigningKey)
	if err != nil {
		return Secrets{}, err
	}
	return Secrets{CACert: a.PEM(), CAKey: caKey, SigningKey: saKey}, nil
}

// Save writes the authority to dir, the CA key last: a directory with a CA key is complete.
func (a *Authority) Save(dir string) error {
	s, err := a.Secrets()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{caCertFile, s.CACert}, {saKeyFile, s.SigningKey}, {caKeyFile, s.CAKey}} {
		failpoint.Hit("keys.save.next")
		if err := WriteFile(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("saving the cluster CA: %w", err)
		}
	}
	return nil
}

// NewKey makes a private key for a certificate.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a private key: %w", err)
	}
	return key, nil
}

// MarshalKey encodes a private key as PKCS #8 in PEM.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return encodePEM("PRIVATE KEY", der), nil
}

// ParseKey reverses MarshalKey.
func ParseKey(pemBytes []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM block of type PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("private key is %T, want ECDSA", key)
	}
	return ec, nil
}

// WriteFile replaces path by data, atomically and durably, readable by its owner only; its directory is made 0700.
func WriteFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
