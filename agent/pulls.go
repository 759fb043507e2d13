package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"mgr/agent/registry"
)

// defaultParallelPulls is how many images are pulled at once where nobody says otherwise.
const defaultParallelPulls = 5

// pulls fetches images: one download for all pods that ask for the same image with the same credentials, and not too many
// downloads at once. A download ends when nobody waits for it any more.
type pulls struct {
	runtime Runtime
	records *registry.Records
	slots   chan struct{}
	wg      sync.WaitGroup

	mu      sync.Mutex
	running map[string]*download
}

// download is one pull; its results may be read once done is closed.
type download struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int

	image Image
	err   error
	took  time.Duration // without the wait for a slot
}

func newPulls(runtime Runtime, records *registry.Records, atOnce int) *pulls {
	return &pulls{runtime: runtime, records: records, slots: make(chan struct{}, atOnce), running: map[string]*download{}}
}

// fetch pulls the image, or waits for who does.
func (p *pulls) fetch(ctx context.Context, image string, ring registry.Keyring) (Image, time.Duration, error) {
	key := image
	for _, c := range ring {
		key += "\n" + c.Key + " " + c.Hash()
	}
	d := p.join(key, image, ring)
	defer p.leave(key, d)
	select {
	case <-d.done:
		return d.image, d.took, d.err
	case <-ctx.Done():
		return Image{}, 0, ctx.Err()
	}
}

func (p *pulls) join(key, image string, ring registry.Keyring) *download {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.running[key]
	if d == nil {
		ctx, cancel := context.WithCancel(context.Background()) // it belongs to all who wait
		d = &download{done: make(chan struct{}), cancel: cancel}
		p.running[key] = d
		p.wg.Go(func() {
			defer close(d.done)
			d.image, d.took, d.err = p.run(ctx, image, ring)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.running[key] == d {
				delete(p.running, key) // who comes later asks the registry anew
			}
		})
	}
	d.waiting++
	return d
}

func (p *pulls) leave(key string, d *download) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.waiting--; d.waiting == 0 {
		d.cancel()
		if p.running[key] == d {
			delete(p.running, key)
		}
	}
}

func (p *pulls) run(ctx context.Context, image string, ring registry.Keyring) (Image, time.Duration, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return Image{}, 0, ctx.Err()
	}
	if err := p.records.Begin(image); err != nil {
		return Image{}, 0, err
	}
	begun := time.Now()
	pulled, err := p.runtime.Pull(ctx, image, ring)
	took := time.Since(begun)
	if err != nil {
		return Image{}, took, errors.Join(err, p.records.Failed(image))
	}
	return pulled.Image, took, p.records.Pulled(image, pulled.ID, pulled.Used)
}

// wait returns when all downloads have ended; who waits for them must have left.
func (p *pulls) wait() { p.wg.Wait() }

// openRecords opens the records of who may use which image.
func openRecords(ctx context.Context, cfg *Config) (*registry.Records, error) {
	present := func(image string) string {
		found, err := cfg.Runtime.Image(ctx, image)
		if err != nil {
			return ""
		}
		return found.ID
	}
	policy := registry.Policy(cfg.Images.CredentialsPolicy)
	return registry.OpenRecords(cfg.Dir+"/images", policy, cfg.Images.Allowlist, present)
}

// ImageConfig is what the agent's user decides about images; zero values mean the defaults, which are kubelet's unless they say
// otherwise.
type ImageConfig struct {
	Serial   bool // one pull at a time
	Parallel int  // pulls at once; default 5 (kubelet: one, unless told otherwise)

	GCHigh, GCLow int           // percent of the disk in use: removal of unused images begins and ends; default 85, 80
	MinAge        time.Duration // images that came or were used later stay; default 2 m
	MaxAge        time.Duration // images unused for longer go, whatever the disk; default 0: never

	CredentialsPolicy string   // see package registry; default NeverVerifyPreloadedImages
	Allowlist         []string // for NeverVerifyAllowlistedImages
}

func (c *ImageConfig) complete() error {
	if c.Parallel == 0 {
		c.Parallel = defaultParallelPulls
	}
	if c.Serial {
		c.Parallel = 1
	}
	if c.GCHigh == 0 {
		c.GCHigh = 85
	}
	if c.GCLow == 0 {
		c.GCLow = min(80, c.GCHigh)
	}
	if c.MinAge == 0 {
		c.MinAge = 2 * time.Minute
	}
	var errs []string
	if c.Parallel < 0 {
		errs = append(errs, fmt.Sprintf("--max-parallel-image-pulls %d: use 1 or more", c.Parallel))
	}
	if c.GCHigh < 0 || c.GCHigh > 100 || c.GCLow < 0 || c.GCLow > c.GCHigh {
		errs = append(errs, fmt.Sprintf("--image-gc-high-threshold %d and --image-gc-low-threshold %d: use percentages, the low one not above the high one", c.GCHigh, c.GCLow))
	}
	if len(errs) > 0 {
		return errors.New(strings.Join(errs, "; "))
	}
	return nil
}
