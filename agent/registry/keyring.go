// Package registry decides who may use which image: it reads the credentials of pull secrets, chooses those that fit an image or a
// registry's mirror, and remembers with whose credentials each image of the node was fetched.
package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
)

// dockerHub is how an image's name calls Docker's registry; dockerHubHosts are its other names in keys.
const dockerHub = "docker.io"

var dockerHubHosts = [...]string{"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}

// Source is the secret that a credential comes from.
type Source struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Credential is one entry of a pull secret.
type Credential struct {
	// Key is the entry's key reduced to host[:port][/path]; labels of the host may be glob patterns (*.example.com).
	Key                               string
	Username, Password, IdentityToken string
	Source                            Source
}

// Hash identifies what is sent to a registry without telling it.
func (c Credential) Hash() string {
	sum := sha256.New()
	for _, s := range []string{c.Username, c.Password, c.IdentityToken} {
		fmt.Fprintf(sum, "%d:%s,", len(s), s)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Keyring is the credentials of a pod, the most specific first.
type Keyring []Credential

// entry is what a docker config file says of a registry; auth is base64 of name:password and wins.
type entry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// Read makes a keyring of secrets of the types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg; others are passed over.
// What can be read of them counts, whatever the error says of the rest.
func Read(secrets ...*v1.Secret) (Keyring, error) {
	var ring Keyring
	var errs []error
	for _, s := range secrets {
		entries, err := entriesOf(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("secret %s/%s: %w", s.Namespace, s.Name, err))
		}
		for _, key := range sorted(entries) {
			c, err := credential(key, entries[key])
			if err != nil {
				errs = append(errs, fmt.Errorf("secret %s/%s: entry %q: %w", s.Namespace, s.Name, key, err))
				continue
			}
			c.Source = Source{UID: string(s.UID), Namespace: s.Namespace, Name: s.Name}
			ring = append(ring, c)
		}
	}
	slices.SortStableFunc(ring, func(a, b Credential) int { return moreSpecific(a.Key, b.Key) })
	return ring, errors.Join(errs...)
}

func entriesOf(s *v1.Secret) (map[string]entry, error) {
	var entries map[string]entry
	switch {
	case s.Type == v1.SecretTypeDockerConfigJson:
		var file struct {
			Auths map[string]entry `json:"auths"`
		}
		if err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &file); err != nil {
			return nil, fmt.Errorf("key %s: %w", v1.DockerConfigJsonKey, err)
		}
		entries = file.Auths
	case s.Type == v1.SecretTypeDockercfg:
		if err := json.Unmarshal(s.Data[v1.DockerConfigKey], &entries); err != nil {
			return nil, fmt.Errorf("key %s: %w", v1.DockerConfigKey, err)
		}
	}
	return entries, nil
}

func sorted(entries map[string]entry) []string {
	keys := make([]string, 0, len(entries))
	for k := range entries {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func credential(key string, e entry) (Credential, error) {
	c := Credential{Key: reduce(key), Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken}
	if e.Auth == "" {
		return c, nil
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	if err != nil {
		return c, fmt.Errorf("its auth is not base64: %w", err)
	}
	var ok bool
	if c.Username, c.Password, ok = strings.Cut(string(raw), ":"); !ok {
		return c, errors.New("its auth is not base64 of name:password")
	}
	return c, nil
}

// reduce makes host and path of what people write as the key: "https://index.docker.io/v1/" means a host.
func reduce(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(key), "https://"), "http://")
	host, path, _ := strings.Cut(key, "/")
	for _, version := range []string{"v1", "v2"} {
		if path == version || strings.HasPrefix(path, version+"/") {
			path = path[len(version):]
		}
	}
	if slices.Contains(dockerHubHosts[:], host) {
		host = dockerHub
	}
	if path = strings.Trim(path, "/"); path == "" {
		return host
	}
	return host + "/" + path
}

// moreSpecific orders keys: without patterns first, then by the length of the path; equal ones stay as the pod names their secrets.
func moreSpecific(a, b string) int {
	pattern := func(key string) int {
		if host, _, _ := strings.Cut(key, "/"); strings.ContainsAny(host, "*?[") {
			return 1
		}
		return 0
	}
	depth := func(key string) int { _, path, _ := strings.Cut(key, "/"); return len(path) }
	return cmp.Or(cmp.Compare(pattern(a), pattern(b)), cmp.Compare(depth(b), depth(a)))
}

// For returns the credentials that fit a repository ("registry.example.com:5000/team/app"), the most specific first, each once.
func (k Keyring) For(repository string) Keyring {
	var out Keyring
	seen := map[string]bool{}
	for _, c := range k {
		if fits(c.Key, repository) && !seen[c.Hash()] {
			seen[c.Hash()] = true
			out = append(out, c)
		}
	}
	return out
}

// fits compares host by labels, port exactly, and the path by its beginning.
func fits(key, repository string) bool {
	keyHost, keyPath, _ := strings.Cut(key, "/")
	host, repo, _ := strings.Cut(repository, "/")
	if slices.Contains(dockerHubHosts[:], host) {
		host = dockerHub
	}
	if !strings.HasPrefix(repo, keyPath) {
		return false
	}
	keyName, keyPort := splitPort(keyHost)
	name, port := splitPort(host)
	patterns, labels := strings.Split(keyName, "."), strings.Split(name, ".")
	if keyPort != port || len(patterns) != len(labels) {
		return false
	}
	for i := range labels {
		if ok, err := path.Match(patterns[i], labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func splitPort(host string) (name, port string) {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return name, port
	}
	return host, ""
}

// Repository is the image's name without tag and digest, completed as Docker does: busybox is docker.io/library/busybox.
func Repository(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", image, err)
	}
	return named.Name(), nil
}
