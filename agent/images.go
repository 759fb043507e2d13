package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
)

// pull makes sure that the image of the container's next instance is there, as its policy says.
func (w *worker) pull(e errand) {
	m := e.member
	pod, spec := w.view.Pod, m.Spec
	w.effect(e.ctx, func(ctx context.Context) func(time.Time) {
		id, err := w.ensureImage(ctx, pod, spec)
		return func(now time.Time) {
			cancelled := e.ctx.Err() != nil
			if !w.closed(e) {
				return
			}
			if err == nil {
				m.ImageReady, m.ImageID, m.Pulls = true, id, 0
				return
			}
			var waiting *errWaiting
			if cancelled || !errors.As(err, &waiting) {
				return
			}
			m.Wait = &v1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Error()}
			m.FailedAt, m.Retry = now, now.Add(grow(pullBackoffFirst, pullBackoffLimit, m.Pulls))
			m.Pulls++
			w.containerEvent(m, v1.EventTypeWarning, "Failed", "Error: %s", waiting.Reason)
		}
	})
}

func (w *worker) ensureImage(ctx context.Context, pod *v1.Pod, c *v1.Container) (id string, err error) {
	event := func(kind, reason, format string, args ...any) { w.refEvent(pod, c.Name, kind, reason, format, args...) }
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		event(v1.EventTypeWarning, "InspectFailed", "Failed to apply default image tag %q: couldn't parse image name %q: %v", c.Image, c.Image, err)
		return "", &errWaiting{"InvalidImageName", fmt.Errorf("Failed to apply default image tag %q: couldn't parse image name %q: %w", c.Image, c.Image, err)}
	}
	policy := pullPolicy(c)
	image, err := w.a.runtime.Image(ctx, c.Image)
	if err != nil && !errors.Is(err, ErrNoImage) {
		event(v1.EventTypeWarning, "InspectFailed", "Failed to inspect image %q: %v", c.Image, err)
		return "", &errWaiting{"ImageInspectError", fmt.Errorf("Failed to inspect image %q: %w", c.Image, err)}
	}
	present := err == nil
	switch {
	case present && policy != v1.PullAlways:
		event(v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return imageID(image), nil
	case policy == v1.PullNever:
		event(v1.EventTypeWarning, "ErrImageNeverPull", "Container image %q is not present with pull policy of Never", c.Image)
		return "", &errWaiting{"ErrImageNeverPull", fmt.Errorf("Container image %q is not present with pull policy of Never", c.Image)}
	}
	event(v1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	begun := time.Now()
	image, err = w.a.runtime.Pull(ctx, c.Image, w.registryAuths(ctx, pod, c.Image))
	if err != nil {
		if ctx.Err() == nil {
			event(v1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.Image, err)
		}
		return "", &errWaiting{"ErrImagePull", err}
	}
	took := time.Since(begun).Round(time.Millisecond)
	event(v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", c.Image, took, took, image.Size)
	return imageID(image), nil
}

func pullPolicy(c *v1.Container) v1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	if named, err := reference.ParseNormalizedNamed(c.Image); err == nil {
		if tagged, ok := reference.TagNameOnly(named).(reference.Tagged); ok && tagged.Tag() == "latest" {
			return v1.PullAlways
		}
	}
	return v1.PullIfNotPresent
}

func imageID(i Image) string {
	if len(i.Digests) > 0 {
		return i.Digests[0]
	}
	return i.ID
}

// registryAuths finds the credentials for an image in the pod's pull secrets, the most specific first.
func (w *worker) registryAuths(ctx context.Context, pod *v1.Pod, image string) []RegistryAuth {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	var out []RegistryAuth
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, err := w.a.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			w.event(v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		found, err := authsFor(s, named)
		if err != nil {
			w.log.Warn("reading a pull secret", "secret", ref.Name, "err", err)
		}
		out = append(out, found...)
	}
	return out
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// authsFor reads .dockerconfigjson or .dockercfg and returns what fits the image's registry and path.
func authsFor(s *v1.Secret, image reference.Named) ([]RegistryAuth, error) {
	var entries map[string]dockerAuth
	switch {
	case s.Data[v1.DockerConfigJsonKey] != nil:
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &file); err != nil {
			return nil, fmt.Errorf("key %s: %w", v1.DockerConfigJsonKey, err)
		}
		entries = file.Auths
	case s.Data[v1.DockerConfigKey] != nil:
		if err := json.Unmarshal(s.Data[v1.DockerConfigKey], &entries); err != nil {
			return nil, fmt.Errorf("key %s: %w", v1.DockerConfigKey, err)
		}
	}
	domain := reference.Domain(image)
	full := domain + "/" + reference.Path(image)
	var out []RegistryAuth
	best := -1
	for key, a := range entries {
		registry := registryKey(key)
		host, _, _ := strings.Cut(registry, "/")
		if host != domain && !(domain == "docker.io" && host == "index.docker.io") {
			continue
		}
		if strings.Contains(registry, "/") && host == domain && !strings.HasPrefix(full+"/", registry+"/") {
			continue
		}
		auth := RegistryAuth{Registry: domain, Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}
		if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && a.Auth != "" {
			auth.Username, auth.Password, _ = strings.Cut(string(raw), ":")
		}
		if len(registry) > best {
			best, out = len(registry), append([]RegistryAuth{auth}, out...)
		} else {
			out = append(out, auth)
		}
	}
	return out, nil
}

// registryKey reduces what people write as the key ("https://index.docker.io/v1/") to host and path.
func registryKey(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	return strings.TrimSuffix(strings.TrimSuffix(key, "/v1"), "/v2")
}
