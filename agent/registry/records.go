package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Policy says for which images that are on the node a pod must show credentials that fetched them, as kubelet's
// imagePullCredentialsVerificationPolicy does.
type Policy string

// The policies. Preloaded are images that no pull of this node has brought.
const (
	NeverVerify                  Policy = "NeverVerify"
	NeverVerifyPreloadedImages   Policy = "NeverVerifyPreloadedImages"
	NeverVerifyAllowlistedImages Policy = "NeverVerifyAllowlistedImages"
	AlwaysVerify                 Policy = "AlwaysVerify"
)

// Policies that there are, the default first.
var Policies = []Policy{NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages, AlwaysVerify, NeverVerify}

// mostSources is how many secrets are remembered of one image.
const mostSources = 100

// Records remember, in a directory, with whose credentials each image was pulled, so that a private image which one pod's secret
// has brought is not open to all pods of the node. Safe for concurrent use.
type Records struct {
	dir    string
	policy Policy
	allow  []string

	mu sync.Mutex
}

// record is the file of one image, named by its id.
type record struct {
	ImageID      string                 `json:"imageID"`
	Repositories map[string]*repoAccess `json:"repositories"`
}

// repoAccess says who may use an image by the name of one repository.
type repoAccess struct {
	Everybody bool   `json:"everybody,omitempty"` // it needs no credentials
	Secrets   []used `json:"secrets,omitempty"`
}

type used struct {
	Source
	Hash string `json:"hash"`
}

// OpenRecords reads the records below dir. allow are the images that NeverVerifyAllowlistedImages lets through: names of
// repositories, or their beginnings with /* at the end. present finds an image's id by its name, "" if it is not there: pulls that an
// earlier agent did not live to note are noted as belonging to nobody yet.
func OpenRecords(dir string, policy Policy, allow []string, present func(image string) (id string)) (*Records, error) {
	if policy == "" {
		policy = NeverVerifyPreloadedImages
	}
	if !slices.Contains(Policies, policy) {
		return nil, fmt.Errorf("image credentials policy %q: use one of %v", policy, Policies)
	}
	r := &Records{dir: dir, policy: policy, allow: allow}
	for _, sub := range []string{r.records(), r.pulling()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("making the image records: %w", err)
		}
	}
	begun, err := os.ReadDir(r.pulling())
	if err != nil {
		return nil, fmt.Errorf("reading the image records: %w", err)
	}
	for _, f := range begun {
		path := filepath.Join(r.pulling(), f.Name())
		image, err := os.ReadFile(path)
		if err == nil && len(image) > 0 {
			if id := present(string(image)); id != "" {
				err = r.note(string(image), id, nil)
			}
		}
		if err = errors.Join(err, os.Remove(path)); err != nil {
			return nil, fmt.Errorf("reading the image records: %w", err)
		}
	}
	return r, nil
}

func (r *Records) records() string { return filepath.Join(r.dir, "pulled") }
func (r *Records) pulling() string { return filepath.Join(r.dir, "pulling") }

func (r *Records) file(id string) string {
	return filepath.Join(r.records(), strings.ReplaceAll(id, ":", "-")+".json")
}

func (r *Records) intent(image string) string {
	sum := sha256.Sum256([]byte(image))
	return filepath.Join(r.pulling(), hex.EncodeToString(sum[:]))
}

// Begin notes that a pull of image begins. It must be told before, so that an agent which dies in the middle does not take the
// image for one that was there before all pulls.
func (r *Records) Begin(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.WriteFile(r.intent(image), []byte(image), 0o600); err != nil {
		return fmt.Errorf("noting a pull: %w", err)
	}
	return nil
}

// Failed notes that the pull has brought nothing.
func (r *Records) Failed(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.forget(image)
}

func (r *Records) forget(image string) error {
	if err := os.Remove(r.intent(image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ending the note of a pull: %w", err)
	}
	return nil
}

// Pulled notes that image was pulled as id with the credential by; nil: with none, so everybody may.
func (r *Records) Pulled(image, id string, by *Credential) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	access := &repoAccess{Everybody: by == nil}
	if by != nil {
		access.Secrets = []used{{by.Source, by.Hash()}}
	}
	if err := r.note(image, id, access); err != nil {
		return err
	}
	return r.forget(image)
}

// note adds access to the image's record; nil access makes it known as pulled.
func (r *Records) note(image, id string, access *repoAccess) error {
	repo, err := Repository(image)
	if err != nil {
		return err
	}
	rec, err := r.read(id)
	if err != nil {
		return err
	}
	if rec == nil {
		rec = &record{ImageID: id}
	}
	if rec.Repositories == nil {
		rec.Repositories = map[string]*repoAccess{}
	}
	have := rec.Repositories[repo]
	if have == nil {
		have = &repoAccess{}
		rec.Repositories[repo] = have
	}
	if access != nil {
		have.Everybody = have.Everybody || access.Everybody
		for _, s := range access.Secrets {
			have.Secrets = slices.DeleteFunc(have.Secrets, func(o used) bool { return o.Source == s.Source })
			have.Secrets = append(have.Secrets, s)
		}
		if over := len(have.Secrets) - mostSources; over > 0 {
			have.Secrets = have.Secrets[over:]
		}
	}
	text, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encoding an image record: %w", err)
	}
	path := r.file(id)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("writing an image record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing an image record: %w", err)
	}
	return nil
}

// read returns nil where there is no record. One that cannot be decoded counts as one that names nobody.
func (r *Records) read(id string) (*record, error) {
	text, err := os.ReadFile(r.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading an image record: %w", err)
	}
	rec := &record{}
	if json.Unmarshal(text, rec) != nil {
		return &record{ImageID: id}, nil
	}
	return rec, nil
}

// Allowed tells whether a pod with these credentials may use image, which is on the node as id, without asking the registry.
// ring is asked for only where that matters.
func (r *Records) Allowed(image, id string, ring func() Keyring) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	repo, err := Repository(image)
	if err != nil {
		return false
	}
	rec, err := r.read(id)
	if err != nil {
		return r.policy == NeverVerify
	}
	switch r.policy {
	case NeverVerify:
		return true
	case NeverVerifyPreloadedImages:
		if _, err := os.Stat(r.intent(image)); rec == nil && errors.Is(err, fs.ErrNotExist) {
			return true
		}
	case NeverVerifyAllowlistedImages:
		if r.allowlisted(repo) {
			return true
		}
	}
	if rec == nil || rec.Repositories[repo] == nil {
		return false
	}
	have := rec.Repositories[repo]
	if have.Everybody {
		return true
	}
	for _, c := range ring().For(repo) {
		i := slices.IndexFunc(have.Secrets, func(s used) bool { return s.Hash == c.Hash() || s.Source == c.Source })
		if i < 0 {
			continue
		}
		if s := (used{c.Source, c.Hash()}); have.Secrets[i] != s {
			// The same password in another secret, or the secret has a new one: both count from now on.
			return r.note(image, id, &repoAccess{Secrets: []used{s}}) == nil
		}
		return true
	}
	return false
}

func (r *Records) allowlisted(repo string) bool {
	return slices.ContainsFunc(r.allow, func(pattern string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "/*"); ok {
			return strings.HasPrefix(repo, prefix+"/")
		}
		return repo == pattern
	})
}

// Prune forgets images that are not on the node any more: ids are those that were there at asOf. What was noted since stays.
func (r *Records) Prune(ids []string, asOf time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep := map[string]bool{}
	for _, id := range ids {
		keep[r.file(id)] = true
	}
	all, err := os.ReadDir(r.records())
	if err != nil {
		return fmt.Errorf("reading the image records: %w", err)
	}
	var errs []error
	for _, f := range all {
		path := filepath.Join(r.records(), f.Name())
		if info, err := f.Info(); keep[path] || err != nil || !info.ModTime().Before(asOf) {
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}
