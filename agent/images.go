package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"

	"mgr/agent/registry"
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

// wanted is an image that a pod asks for.
type wanted struct {
	pod    *v1.Pod
	image  string
	policy v1.PullPolicy // "": by the tag
	event  func(kind, reason, format string, args ...any)
}

func (w *worker) ensureImage(ctx context.Context, pod *v1.Pod, c *v1.Container) (id string, err error) {
	image, err := w.a.ensureImage(ctx, wanted{pod: pod, image: c.Image, policy: c.ImagePullPolicy,
		event: func(kind, reason, format string, args ...any) { w.refEvent(pod, c.Name, kind, reason, format, args...) }})
	return imageID(image), err
}

// ensureImage makes sure that an image is on the node and that the pod may use it. The error is an *errWaiting, unless ctx ended.
func (a *Agent) ensureImage(ctx context.Context, q wanted) (Image, error) {
	if _, err := reference.ParseNormalizedNamed(q.image); err != nil {
		err = fmt.Errorf("Failed to apply default image tag %q: couldn't parse image name %q: %w", q.image, q.image, err)
		q.event(v1.EventTypeWarning, "InspectFailed", "%v", err)
		return Image{}, &errWaiting{"InvalidImageName", err}
	}
	ring := sync.OnceValue(func() registry.Keyring { return a.keyring(ctx, q) })
	policy := pullPolicy(q.image, q.policy)
	if policy != v1.PullAlways {
		image, err := a.presentImage(ctx, q, ring)
		if err == nil || !errors.Is(err, ErrNoImage) {
			return image, err
		}
	}
	if policy == v1.PullNever {
		// The same for an image that is there but closed to the pod: it shall not learn that.
		err := fmt.Errorf("Container image %q is not present with pull policy of Never", q.image)
		q.event(v1.EventTypeWarning, "ErrImageNeverPull", "%v", err)
		return Image{}, &errWaiting{"ErrImageNeverPull", err}
	}
	q.event(v1.EventTypeNormal, "Pulling", "Pulling image %q", q.image)
	begun := time.Now()
	image, took, err := a.pulls.fetch(ctx, q.image, ring())
	if err != nil {
		if ctx.Err() == nil {
			q.event(v1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", q.image, err)
		}
		return Image{}, &errWaiting{"ErrImagePull", err}
	}
	q.event(v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", q.image,
		took.Truncate(time.Millisecond), time.Since(begun).Truncate(time.Millisecond), image.Size)
	a.images.use(image)
	return image, nil
}

// presentImage returns ErrNoImage when the image is not on the node, or the pod must show that it may use it.
func (a *Agent) presentImage(ctx context.Context, q wanted, ring func() registry.Keyring) (Image, error) {
	image, err := a.runtime.Image(ctx, q.image)
	if errors.Is(err, ErrNoImage) {
		return Image{}, err
	}
	if err != nil {
		err = fmt.Errorf("Failed to inspect image %q: %w", q.image, err)
		q.event(v1.EventTypeWarning, "InspectFailed", "%v", err)
		return Image{}, &errWaiting{"ImageInspectError", err}
	}
	if !a.pulls.records.Allowed(q.image, image.ID, ring) {
		return Image{}, ErrNoImage
	}
	a.images.use(image)
	q.event(v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", q.image)
	return image, nil
}

func pullPolicy(image string, policy v1.PullPolicy) v1.PullPolicy {
	if policy != "" {
		return policy
	}
	if named, err := reference.ParseNormalizedNamed(image); err == nil {
		if tagged, ok := reference.TagNameOnly(named).(reference.Tagged); ok && tagged.Tag() == "latest" {
			return v1.PullAlways
		}
	}
	return v1.PullIfNotPresent
}

// imageID is what a container's status shows: the digest by which the image can be had again, or its id if it came without a
// registry.
func imageID(i Image) string {
	if len(i.Digests) > 0 {
		return i.Digests[0]
	}
	return i.ID
}

// keyring reads the pod's pull secrets. One that is missing or broken may not be needed: that shows when the registry refuses.
func (a *Agent) keyring(ctx context.Context, q wanted) registry.Keyring {
	var secrets []*v1.Secret
	var missing []string
	for _, ref := range q.pod.Spec.ImagePullSecrets {
		s, err := a.objects.Secret(ctx, q.pod.Namespace, ref.Name)
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		secrets = append(secrets, s)
	}
	if len(missing) > 0 {
		q.event(v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	ring, err := registry.Read(secrets...)
	if err != nil {
		a.log.Warn("reading pull secrets", "pod", q.pod.Namespace+"/"+q.pod.Name, "err", err)
	}
	return ring
}

// fullName completes a reference as Docker does; one that cannot be read stays as it is.
func fullName(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return named.String()
}
