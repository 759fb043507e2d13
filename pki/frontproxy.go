package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
)

// Front proxies have a CA of their own: what it signs may say in X-Remote-* headers for whom it sends a request, and nothing
// else. Its key and certificate are derived from the cluster CA's key, so every master has the same ones and none has to be
// kept or handed over; whoever holds the cluster CA's key may do everything anyway.
const (
	frontProxyCA = "mgr-front-proxy-ca"
	// FrontProxyName is the common name with which a front proxy's certificate counts.
	FrontProxyName = "front-proxy-client"
)

// Labels of the derivation (HKDF-SHA-256, RFC 5869). Changing one changes the CA of every cluster.
const (
	frontProxyKeyInfo    = "mgr front proxy CA key v1"
	frontProxySerialInfo = "mgr front proxy CA serial v1"
)

// deriveFrontProxy makes the CA of front proxies; the same cluster CA always gives the same bytes.
func deriveFrontProxy(ca *x509.Certificate, caKey *ecdsa.PrivateKey) (Trust, *ecdsa.PrivateKey, error) {
	fail := func(err error) (Trust, *ecdsa.PrivateKey, error) {
		return Trust{}, nil, fmt.Errorf("deriving the front proxies' CA: %w", err)
	}
	secret, err := caKey.Bytes()
	if err != nil {
		return fail(err)
	}
	curve := elliptic.P256()
	// 16 bytes more than the order has leave no bias that matters (FIPS 186-5, A.2.1).
	wide, err := hkdf.Key(sha256.New, secret, nil, frontProxyKeyInfo, 32+16)
	if err != nil {
		return fail(err)
	}
	most := new(big.Int).Sub(curve.Params().N, big.NewInt(1))
	d := new(big.Int).SetBytes(wide)
	d.Mod(d, most).Add(d, big.NewInt(1))
	key, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, 32)))
	if err != nil {
		return fail(err)
	}
	serial, err := hkdf.Key(sha256.New, secret, nil, frontProxySerialInfo, 16)
	if err != nil {
		return fail(err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always 16 bytes long
	tmpl := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: frontProxyCA},
		NotBefore:             ca.NotBefore,
		NotAfter:              ca.NotAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	// Without a source of randomness ECDSA signs deterministically (RFC 6979).
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return fail(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	return Trust{cert}, key, nil
}

// FrontProxy is the CA by which front proxies are known.
func (a *Authority) FrontProxy() Trust { return a.frontProxy }

// NewFrontProxyPair makes the key of a front proxy and its certificate, with the common name FrontProxyName.
func (a *Authority) NewFrontProxyPair() (certPEM, keyPEM []byte, err error) {
	signer := &Authority{Trust: a.frontProxy, caKey: a.frontProxyKey, now: a.now}
	return signer.NewPair(Identity{Name: FrontProxyName})
}

// FrontProxyOf returns the verified front proxy at the other end of a connection; PeerOf is false for it.
func FrontProxyOf(cs *tls.ConnectionState) (leaf *x509.Certificate, ok bool) {
	if cs == nil || len(cs.VerifiedChains) == 0 || !ofFrontProxies(cs.VerifiedChains[0]) {
		return nil, false
	}
	return cs.VerifiedChains[0][0], true
}

// ofFrontProxies says whether a verified chain ends at the front proxies' CA. The roots are those of the server's own pool, so
// the name tells them apart.
func ofFrontProxies(chain []*x509.Certificate) bool {
	return chain[len(chain)-1].Subject.CommonName == frontProxyCA
}
