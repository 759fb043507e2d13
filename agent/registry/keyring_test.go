package registry

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func secret(name string, kind v1.SecretType, text string) *v1.Secret {
	key := v1.DockerConfigJsonKey
	if kind == v1.SecretTypeDockercfg {
		key = v1.DockerConfigKey
	}
	return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "u"}, Type: kind, Data: map[string][]byte{key: []byte(text)}}
}

// auths is a .dockerconfigjson with a user named as each key.
func auths(keys ...string) string {
	var entries []string
	for _, k := range keys {
		entries = append(entries, fmt.Sprintf("%q:{\"username\":%q,\"password\":\"p\"}", k, k))
	}
	return `{"auths":{` + strings.Join(entries, ",") + `}}`
}

func users(k Keyring) string {
	var out []string
	for _, c := range k {
		out = append(out, c.Username)
	}
	return strings.Join(out, " ")
}

func TestCredentialsThatFit(t *testing.T) {
	for _, c := range []struct {
		keys  []string
		image string
		want  string
	}{
		{[]string{"r.example.com"}, "r.example.com/a/b:1", "r.example.com"},
		{[]string{"r.example.com"}, "r.example.com:5000/a", ""},
		{[]string{"r.example.com:5000"}, "r.example.com:5000/a", "r.example.com:5000"},
		{[]string{"r.example.com:5000"}, "r.example.com/a", ""},
		{[]string{"*.example.com", "r.example.com", "r.example.com/team", "r.example.com/team/app"}, "r.example.com/team/app:1",
			"r.example.com/team/app r.example.com/team r.example.com *.example.com"},
		{[]string{"*.example.com"}, "a.b.example.com/x", ""},
		{[]string{"*.example.com"}, "example.com/x", ""},
		{[]string{"*.*.example.com:8443"}, "a.b.example.com:8443/x", "*.*.example.com:8443"},
		{[]string{"r?.example.com", "[.example.com"}, "r1.example.com/x", "r?.example.com"},
		{[]string{"r.example.com/other"}, "r.example.com/team/app", ""},
		{[]string{"https://index.docker.io/v1/"}, "busybox", "https://index.docker.io/v1/"},
		{[]string{"docker.io/me"}, "me/app@sha256:" + strings.Repeat("0", 64), "docker.io/me"},
		{[]string{"docker.io/me"}, "busybox", ""},
		{[]string{"https://r.example.com/v2/", "http://r.example.com/v1"}, "r.example.com/v2x/a", "http://r.example.com/v1 https://r.example.com/v2/"},
		{[]string{"localhost:5000"}, "localhost:5000/x", "localhost:5000"},
		{[]string{"[::1]:5000"}, "r.example.com/x", ""},
		{[]string{""}, "r.example.com/x", ""},
	} {
		ring, err := Read(secret("s", v1.SecretTypeDockerConfigJson, auths(c.keys...)))
		if err != nil {
			t.Errorf("%v: %v", c.keys, err)
		}
		repo, err := Repository(c.image)
		if err != nil {
			t.Fatal(err)
		}
		if got := users(ring.For(repo)); got != c.want {
			t.Errorf("%s with %v: %q, want %q", c.image, c.keys, got, c.want)
		}
	}
}

func TestSeveralSecretsStayInThePodsOrder(t *testing.T) {
	old := secret("old", v1.SecretTypeDockercfg, `{"r.example.com":{"auth":"`+base64.RawStdEncoding.EncodeToString([]byte("old:p:w"))+`"}}`)
	padded := secret("padded", v1.SecretTypeDockerConfigJson, `{"auths":{"r.example.com":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("new:x"))+`","username":"not me"}}}`)
	token := secret("token", v1.SecretTypeDockerConfigJson, `{"auths":{"r.example.com":{"identitytoken":"t"}}}`)
	again := secret("again", v1.SecretTypeDockerConfigJson, `{"auths":{"r.example.com/":{"username":"old","password":"p:w"}}}`)
	opaque := secret("opaque", v1.SecretTypeOpaque, auths("r.example.com"))
	broken := secret("broken", v1.SecretTypeDockerConfigJson, `{"auths":{"r.example.com":{"auth":"!"},"other.example.com":{"auth":"bm9jb2xvbg=="},"r.example.com/x":{"username":"good"}}}`)
	cut := secret("cut", v1.SecretTypeDockerConfigJson, `{"auths":`)
	ring, err := Read(old, padded, token, again, opaque, broken, cut)
	for _, says := range []string{`secret default/broken: entry "r.example.com": its auth is not base64`,
		`entry "other.example.com": its auth is not base64 of name:password`, "secret default/cut: key .dockerconfigjson"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
	got := ring.For("r.example.com/x")
	if users(got) != "good old new " || got[1].Password != "p:w" || got[2].Password != "x" || got[3].IdentityToken != "t" {
		t.Errorf("%+v", got)
	}
	if got[1].Source.Name != "old" {
		t.Errorf("the second is from %+v", got[1].Source)
	}
}
