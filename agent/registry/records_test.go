package registry

import (
	"os"
	"testing"
	"time"
)

const app = "r.example.com/team/app:1"

func cred(secret, password string) Credential {
	return Credential{Key: "r.example.com", Username: "u", Password: password, Source: Source{UID: "u-" + secret, Namespace: "default", Name: secret}}
}

func ring(cs ...Credential) func() Keyring { return func() Keyring { return cs } }

func open(t *testing.T, dir string, p Policy, present ...string) *Records {
	t.Helper()
	r, err := OpenRecords(dir, p, []string{"r.example.com/open/*", "r.example.com/one"}, func(image string) string {
		for _, p := range present {
			if p == image {
				return "sha256:1"
			}
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func pulled(t *testing.T, r *Records, image, id string, by *Credential) {
	t.Helper()
	if err := r.Begin(image); err != nil {
		t.Fatal(err)
	}
	if err := r.Pulled(image, id, by); err != nil {
		t.Fatal(err)
	}
}

func TestAPrivateImageIsForThoseWhoHaveItsCredentials(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, "")
	if !r.Allowed(app, "sha256:1", ring()) {
		t.Error("a preloaded image is refused")
	}
	mine := cred("mine", "p")
	pulled(t, r, app, "sha256:1", &mine)
	r = open(t, dir, "") // another agent
	for _, c := range []struct {
		name  string
		image string
		ring  func() Keyring
		want  bool
	}{
		{"nobody", app, ring(), false},
		{"the secret", app, ring(mine), true},
		{"another tag of the same repository", "r.example.com/team/app:2", ring(mine), true},
		{"another repository", "r.example.com/team/other:1", ring(mine), false},
		{"another password", app, ring(cred("other", "q")), false},
		{"the same password elsewhere", app, ring(cred("other", "p")), true},
		{"the secret with a new password", app, ring(cred("mine", "new")), true},
		{"then the new password elsewhere", app, ring(cred("third", "new")), true},
		{"a credential for another registry", app, ring(Credential{Key: "else.example.com", Username: "u", Password: "p"}), false},
	} {
		if got := r.Allowed(c.image, "sha256:1", c.ring); got != c.want {
			t.Errorf("%s: allowed %t", c.name, got)
		}
	}
	pulled(t, r, app, "sha256:1", nil)
	if !r.Allowed(app, "sha256:1", ring()) {
		t.Error("it was pulled without credentials, and is refused")
	}
	for _, asOf := range []time.Time{time.Now().Add(-time.Hour), time.Now().Add(time.Hour)} {
		if files, err := os.ReadDir(r.records()); err != nil || len(files) != 1 {
			t.Errorf("before pruning as of %v: %v, %v", asOf, files, err)
		}
		if err := r.Prune([]string{"sha256:2"}, asOf); err != nil {
			t.Fatal(err)
		}
	}
	if files, err := os.ReadDir(r.records()); err != nil || len(files) != 0 {
		t.Errorf("left: %v, %v", files, err)
	}
}

func TestAPullThatNobodySawEnd(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, "")
	for _, image := range []string{app, "r.example.com/failed", "r.example.com/gone"} {
		if err := r.Begin(image); err != nil {
			t.Fatal(err)
		}
	}
	if r.Allowed(app, "sha256:1", ring()) {
		t.Error("an image that is being pulled is taken for preloaded")
	}
	if err := r.Failed("r.example.com/failed"); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, "", app) // the agent died; the image has arrived
	if r.Allowed(app, "sha256:1", ring(cred("mine", "p"))) {
		t.Error("an image of an unknown puller is allowed")
	}
	if files, err := os.ReadDir(r.pulling()); err != nil || len(files) != 0 {
		t.Errorf("left: %v, %v", files, err)
	}
	if err := os.WriteFile(r.file("sha256:1"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r.Allowed(app, "sha256:1", ring()) {
		t.Error("a damaged record opens the image to all")
	}
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		policy                 Policy
		preloaded, listed, one bool
	}{
		{NeverVerify, true, true, true},
		{NeverVerifyPreloadedImages, true, true, true},
		{NeverVerifyAllowlistedImages, false, true, true},
		{AlwaysVerify, false, false, false},
	} {
		r := open(t, t.TempDir(), c.policy)
		for image, want := range map[string]bool{app: c.preloaded, "r.example.com/open/x:1": c.listed, "r.example.com/one": c.one} {
			if got := r.Allowed(image, "sha256:1", ring()); got != want {
				t.Errorf("%s, %s: allowed %t", c.policy, image, got)
			}
		}
	}
	if _, err := OpenRecords(t.TempDir(), "Sometimes", nil, nil); err == nil {
		t.Error("an unknown policy is taken")
	}
}
