package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/apis/asn1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// identities remembers who the holder of a client certificate is: a connection shows the same one with every request. The
// zero value is ready.
type identities struct {
	known sync.Map // *x509.Certificate → *user.DefaultInfo, shared and never changed
	count atomic.Int64
}

// mostIdentities bounds the memory; then all are forgotten and found again.
const mostIdentities = 4096

// uidAttribute names a user's UID in the subject of a certificate.
var uidAttribute = asn1.X509UID()

// of returns the user whom a verified certificate names.
func (i *identities) of(leaf *x509.Certificate) (user.Info, error) {
	if u, ok := i.known.Load(leaf); ok {
		return u.(*user.DefaultInfo), nil
	}
	uid, err := uidOf(leaf)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(leaf.Raw)
	u := &user.DefaultInfo{
		Name: leaf.Subject.CommonName, UID: uid, Groups: withAuthenticated(leaf.Subject.Organization),
		Extra: map[string][]string{user.CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}
	if i.count.Add(1) > mostIdentities {
		i.known.Clear()
		i.count.Store(1)
	}
	i.known.Store(leaf, u)
	return u, nil
}

func uidOf(leaf *x509.Certificate) (uid string, err error) {
	found := false
	for _, name := range leaf.Subject.Names {
		if !name.Type.Equal(uidAttribute) {
			continue
		}
		text, ok := name.Value.(string)
		switch {
		case found:
			return "", errors.New("the client certificate has more than one UID")
		case !ok || text == "":
			return "", errors.New("the UID in the client certificate is not a text, or empty")
		}
		uid, found = text, true
	}
	return uid, nil
}
