package pki

import (
	"strings"
	"testing"
)

func TestTokenTextRoundTrip(t *testing.T) {
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []Role{RoleServer, RoleAgent} {
		tok, err := NewToken(role, a.Trust)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseToken(" " + tok.Text() + "\n")
		if err != nil || got != tok {
			t.Errorf("ParseToken(%s) = %v, %v", tok, got, err)
		}
		if strings.Contains(tok.String(), tok.Secret) || strings.Contains(tok.Hash(), tok.Secret) {
			t.Error("the secret shows")
		}
		if !tok.Matches(tok.Hash()) {
			t.Error("a token does not match its own hash")
		}
		other := tok
		other.Role = map[Role]Role{RoleServer: RoleAgent, RoleAgent: RoleServer}[role]
		if other.Matches(tok.Hash()) {
			t.Error("the hash does not cover the role")
		}
	}
	if _, err := NewToken("king", a.Trust); err == nil {
		t.Error("a token of an unknown role was made")
	}
}

func TestParseTokenSaysWhatIsWrong(t *testing.T) {
	id, secret, hash := strings.Repeat("a", 8), strings.Repeat("b", 32), strings.Repeat("c", 64)
	for text, want := range map[string]string{
		"":                   "malformed: want mgr.<role>",
		"K10abc::server:xyz": "malformed: want mgr.<role>",
		"mgr.king." + id + "." + secret + "." + hash:       "its role is neither",
		"mgr.agent.A!." + secret + "." + hash:              "its id must be",
		"mgr.agent." + id + "." + secret[:30] + "." + hash: "it has 30; was it cut?",
		"mgr.agent." + id + "." + secret + "." + hash[:10]: "it has 10; was it cut?",
	} {
		_, err := ParseToken(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseToken(%q) = %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret[:30]) {
			t.Errorf("ParseToken(%q) repeats the secret", text)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("mgr.agent.aaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc")
	f.Add("mgr.server....")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := ParseToken(text)
		if err != nil {
			return
		}
		if tok.Text() != strings.TrimSpace(text) {
			t.Errorf("ParseToken(%q).Text() = %q", text, tok.Text())
		}
		if !tok.Matches(tok.Hash()) {
			t.Errorf("%q does not match its own hash", text)
		}
	})
}
