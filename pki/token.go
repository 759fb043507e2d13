package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// Role is what a join token allows its bearer to become.
type Role string

const (
	RoleServer Role = "server" // a master
	RoleAgent  Role = "agent"  // a node
)

// Token lets a machine join. Its text is
//
//	mgr.<role>.<id>.<secret>.<sha256 of the CA certificate>
//
// for example mgr.agent.k7qz2maw.<32 letters and digits>.<64 hex digits>. Role, id and hash are public, so a person can see
// what a token is for and compare the hash with the CA; the secret has 160 random bits and is stored only as a hash.
type Token struct {
	Role   Role
	ID     string // eight of a-z2-7
	Secret string // 32 of a-z2-7
	CAHash string // 64 hex digits, as Trust.Hash
}

const (
	tokenPrefix     = "mgr"
	tokenIDBytes    = 5
	tokenSecretLen  = 20
	tokenTextFields = 5
)

var (
	base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	tokenID     = regexp.MustCompile(`^[a-z2-7]{8}$`)
	tokenSecret = regexp.MustCompile(`^[a-z2-7]{32}$`)
	tokenHash   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// NewToken makes a token with a fresh id and secret.
func NewToken(role Role, trust Trust) (Token, error) {
	if role != RoleServer && role != RoleAgent {
		return Token{}, fmt.Errorf("role %q is unknown: want %s or %s", role, RoleServer, RoleAgent)
	}
	random := make([]byte, tokenIDBytes+tokenSecretLen)
	if _, err := rand.Read(random); err != nil {
		return Token{}, fmt.Errorf("making a join token: %w", err)
	}
	return Token{
		Role:   role,
		ID:     base32Lower.EncodeToString(random[:tokenIDBytes]),
		Secret: base32Lower.EncodeToString(random[tokenIDBytes:]),
		CAHash: trust.Hash(),
	}, nil
}

// Text is the token as people pass it on. It contains the secret.
func (t Token) Text() string {
	return strings.Join([]string{tokenPrefix, string(t.Role), t.ID, t.Secret, t.CAHash}, ".")
}

// String hides the secret, so that a token in a log line or an error does no harm.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, string(t.Role), t.ID, "***", t.CAHash}, ".")
}

// ParseToken reads the text of a token; errors say which part is wrong and never repeat the secret.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != tokenTextFields || parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("join token is malformed: want mgr.<role>.<id>.<secret>.<CA hash>, as printed by \"mgr token create\"")
	}
	t := Token{Role: Role(parts[1]), ID: parts[2], Secret: parts[3], CAHash: parts[4]}
	switch {
	case t.Role != RoleServer && t.Role != RoleAgent:
		return Token{}, fmt.Errorf("join token is malformed: its role is neither %q nor %q", RoleServer, RoleAgent)
	case !tokenID.MatchString(t.ID):
		return Token{}, fmt.Errorf("join token is malformed: its id must be 8 characters of a-z and 2-7")
	case !tokenSecret.MatchString(t.Secret):
		return Token{}, fmt.Errorf("join token is malformed: its secret must be 32 characters of a-z and 2-7, it has %d; was it cut?", len(t.Secret))
	case !tokenHash.MatchString(t.CAHash):
		return Token{}, fmt.Errorf("join token is malformed: its CA hash must be 64 hex digits, it has %d; was it cut?", len(t.CAHash))
	}
	return t, nil
}

// ValidTokenID says whether id could be the id of a token.
func ValidTokenID(id string) bool { return tokenID.MatchString(id) }

// Hash is what a master stores instead of the secret; it covers role and id, so a record cannot serve for another token.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(string(t.Role) + "." + t.ID + "." + t.Secret))
	return hex.EncodeToString(sum[:])
}

// Matches compares with a stored hash in constant time.
func (t Token) Matches(storedHash string) bool {
	return subtle.ConstantTimeCompare([]byte(t.Hash()), []byte(storedHash)) == 1
}
