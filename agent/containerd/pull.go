package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"mgr/agent"
	"mgr/agent/registry"
)

const (
	// layersAtOnce is how many layers of one image are downloaded at a time.
	layersAtOnce = 3
	// pullLease is how long what an unfinished pull has brought stays, so that the next one goes on where it ended.
	pullLease = 24 * time.Hour
	leaseName = "mgr-pull-"
)

// Pull implements agent.Runtime.
func (r *Runtime) Pull(ctx context.Context, ref string, ring registry.Keyring) (agent.Pulled, error) {
	ctx = scope(ctx)
	name, err := normalize(ref)
	if err != nil {
		return agent.Pulled{}, err
	}
	repo, err := registry.Repository(name)
	if err != nil {
		return agent.Pulled{}, err
	}
	ctx, release, err := r.leasePull(ctx, name)
	if err != nil {
		return agent.Pulled{}, fmt.Errorf("failed to pull and unpack image %q: %w", name, err)
	}
	fitting := ring.For(repo)
	var errs []error
	for i := range len(fitting) + 1 { // at last without credentials
		var used *registry.Credential
		if i < len(fitting) {
			used = &fitting[i]
		}
		img, err := r.pull(ctx, name, keys{repo: repo, used: used, ring: ring})
		if err == nil {
			release(nil)
			info, err := r.describe(ctx, img)
			if err != nil {
				return agent.Pulled{}, err
			}
			return agent.Pulled{Image: face(info, []images.Image{img}), Used: used}, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || !refused(err) {
			break
		}
	}
	err = errs[len(errs)-1]
	if refused(err) {
		err = errs[0]
	}
	release(err)
	return agent.Pulled{}, fmt.Errorf("failed to pull and unpack image %q: %w", name, err)
}

// refused: the registry does not let these credentials in; others may do better. Docker's answers so for images that are missing, too.
func refused(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden || status.StatusCode == http.StatusNotFound
	}
	return errors.Is(err, docker.ErrInvalidAuthorization) || errdefs.IsNotFound(err) || strings.Contains(err.Error(), "failed to fetch oauth token") ||
		strings.Contains(err.Error(), "failed to fetch anonymous token")
}

// pull makes one attempt.
func (r *Runtime) pull(ctx context.Context, name string, k keys) (images.Image, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &progress{patience: r.cfg.PullPatience, stop: cancel}
	p.touch()
	img, err := r.client.Pull(ctx, name, containerd.WithPullUnpack, containerd.WithPullSnapshotter(r.images.snapshotter),
		containerd.WithMaxConcurrentDownloads(layersAtOnce), containerd.WithResolver(r.resolver(ctx, k, p)))
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			err = fmt.Errorf("%w: the registry has sent nothing for %s", cause, p.patience)
		}
		return images.Image{}, err
	}
	return img.Metadata(), nil
}

// pullLeases counts who uses which lease: pulls of one image share it.
type pullLeases struct {
	mu     sync.Mutex
	active map[string]int
}

func (l *pullLeases) add(id string, n int) (left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active[id] += n
	left = l.active[id]
	if left == 0 {
		delete(l.active, id)
	}
	return left
}

// leasePull protects what a pull brings from containerd's garbage collection. release(nil) ends that; after a failure the parts stay
// for the next attempt, except where the disk has no room for them.
func (r *Runtime) leasePull(ctx context.Context, name string) (_ context.Context, release func(error), err error) {
	sum := sha256.Sum256([]byte(name))
	id := leaseName + hex.EncodeToString(sum[:16])
	r.pulling.add(id, 1)
	if err := r.ensureLease(ctx, id); err != nil {
		r.pulling.add(id, -1)
		return nil, nil, err
	}
	release = func(failure error) {
		if r.pulling.add(id, -1) > 0 {
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, killWait)
		defer cancel()
		if failure != nil && !noRoom(failure) {
			if parts, err := r.client.LeasesService().ListResources(ctx, leases.Lease{ID: id}); err != nil || len(parts) > 0 {
				return
			}
		}
		if err := r.endLease(ctx, id, failure != nil); err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn("end the lease of a pull", "image", name, "err", err)
		}
	}
	return leases.WithLease(ctx, id), release, nil
}

func (r *Runtime) ensureLease(ctx context.Context, id string) error {
	manager := r.client.LeasesService()
	have, err := manager.List(ctx, "id=="+id)
	if err != nil {
		return fmt.Errorf("look up the lease of its parts: %w", err)
	}
	if len(have) > 0 && time.Since(have[0].CreatedAt) > pullLease/2 { // it must not end in the middle
		if err := r.endLease(ctx, id, false); err != nil {
			return err
		}
	}
	if _, err := manager.Create(ctx, leases.WithID(id), leases.WithExpiration(pullLease)); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("lease its parts: %w", err)
	}
	return nil
}

// endLease waits, if told so, until what nothing holds any more is gone.
func (r *Runtime) endLease(ctx context.Context, id string, wait bool) error {
	var options []leases.DeleteOpt
	if wait {
		options = append(options, leases.SynchronousDelete)
	}
	if err := r.client.LeasesService().Delete(ctx, leases.Lease{ID: id}, options...); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("end lease %s: %w", id, err)
	}
	return nil
}

func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error()) // containerd's errors come as text
}

// Reclaim implements agent.Runtime.
func (r *Runtime) Reclaim(ctx context.Context) error {
	ctx = scope(ctx)
	all, err := r.client.LeasesService().List(ctx)
	if err != nil {
		return fmt.Errorf("list the leases of pulls: %w", err)
	}
	for _, l := range all {
		if !strings.HasPrefix(l.ID, leaseName) {
			continue
		}
		unused := r.pulling.add(l.ID, 1) == 1 // nobody begins with it meanwhile and finds it gone
		if unused {
			err = errors.Join(err, r.endLease(ctx, l.ID, false))
		}
		r.pulling.add(l.ID, -1)
	}
	return errors.Join(err, r.collect(ctx))
}

// collect has containerd give back what nothing holds any more, and waits for it. It does so when a lease ends, if told to wait.
func (r *Runtime) collect(ctx context.Context) error {
	lease, err := r.client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Minute))
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	return r.endLease(ctx, lease.ID, true)
}

// keys are what a pull may show to whom.
type keys struct {
	repo string
	used *registry.Credential // for the image's own registry
	ring registry.Keyring
}

// of returns what to show to a host. A mirror gets only what the pod's secrets say is for that mirror, never the registry's password.
func (k keys) of(host string) *registry.Credential {
	own, path, _ := strings.Cut(k.repo, "/")
	if host == own || own == "docker.io" && host == "registry-1.docker.io" {
		return k.used
	}
	if fitting := k.ring.For(host + "/" + path); len(fitting) > 0 {
		return &fitting[0]
	}
	return nil
}

// resolver speaks the registry protocol with the hosts' configuration: mirrors, certificates.
func (r *Runtime) resolver(ctx context.Context, k keys, p *progress) remotes.Resolver {
	options := dockerconfig.HostOptions{
		HostDir: dockerconfig.HostDirFromRoot(r.cfg.RegistryHosts),
		Credentials: func(host string) (string, string, error) {
			c := k.of(host)
			switch {
			case c == nil:
				return "", "", nil
			case c.IdentityToken != "":
				return "", c.IdentityToken, nil
			}
			return c.Username, c.Password, nil
		},
		UpdateClient: func(client *http.Client) error {
			client.Transport = &watchedTransport{next: client.Transport, progress: p}
			return nil
		},
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: dockerconfig.ConfigureHosts(ctx, options)})
}

// errStalled ends a pull whose registry hangs.
var errStalled = errors.New("pull given up")

// progress ends a pull when requests are open and nothing has come for too long.
type progress struct {
	patience time.Duration
	stop     context.CancelCauseFunc

	mu    sync.Mutex
	open  int
	timer *time.Timer
	last  atomic.Int64 // when something came, in Unix nanoseconds
}

func (p *progress) touch() { p.last.Store(time.Now().UnixNano()) }

// begin counts a request; end must be called when it has been answered to the end.
func (p *progress) begin() (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open++; p.open == 1 {
		p.touch()
		p.timer = time.AfterFunc(p.patience, p.check)
	}
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.open--; p.open == 0 {
			p.timer.Stop()
		}
	})
}

func (p *progress) check() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == 0 {
		return
	}
	left := p.patience - time.Since(time.Unix(0, p.last.Load()))
	if left <= 0 {
		p.stop(errStalled)
		return
	}
	p.timer.Reset(left)
}

type watchedTransport struct {
	next     http.RoundTripper
	progress *progress
}

// RoundTrip implements http.RoundTripper.
func (t *watchedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	end := t.progress.begin()
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		end()
		return nil, err
	}
	t.progress.touch()
	resp.Body = &watchedBody{ReadCloser: resp.Body, progress: t.progress, end: end}
	return resp, nil
}

type watchedBody struct {
	io.ReadCloser
	progress *progress
	end      func()
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.progress.touch()
	}
	if err != nil {
		b.end()
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}
