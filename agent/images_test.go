package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/agent/registry"
)

func testPulls(t *testing.T, runtime Runtime, atOnce int) *pulls {
	t.Helper()
	records, err := registry.OpenRecords(t.TempDir(), "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newPulls(runtime, records, atOnce)
}

// puller is a runtime whose pulls wait to be let through.
type puller struct {
	*fakeRuntime
	begun chan string
	gate  chan error
}

func (p *puller) Pull(ctx context.Context, ref string, _ registry.Keyring) (Pulled, error) {
	p.begun <- ref
	select {
	case err := <-p.gate:
		return Pulled{Image: Image{ID: "sha256:" + ref}}, err
	case <-ctx.Done():
		p.begun <- "ended " + ref
		return Pulled{}, ctx.Err()
	}
}

func TestManyPodsShareOneDownload(t *testing.T) {
	runtime := &puller{newFakeRuntime(), make(chan string, 100), make(chan error)}
	p := testPulls(t, runtime, 2)
	defer p.wait()
	var wg sync.WaitGroup
	ask := func(ctx context.Context, image string, ring registry.Keyring, want error) {
		wg.Go(func() {
			if i, _, err := p.fetch(ctx, image, ring); !errors.Is(err, want) || want == nil && i.ID != "sha256:"+image {
				t.Errorf("%s: %+v, %v", image, i, err)
			}
		})
	}
	waiting := func(n int) {
		for {
			p.mu.Lock()
			sum := 0
			for _, d := range p.running {
				sum += d.waiting
			}
			p.mu.Unlock()
			if sum == n {
				return
			}
			<-time.After(time.Millisecond)
		}
	}
	impatient, leave := context.WithCancel(t.Context())
	for range 10 {
		ask(t.Context(), "a", nil, nil)
	}
	ask(impatient, "a", nil, context.Canceled)
	waiting(11)
	if first := <-runtime.begun; first != "a" {
		t.Errorf("pulled %s", first)
	}
	leave() // the others stay
	waiting(10)
	runtime.gate <- nil
	wg.Wait()
	if len(runtime.begun) != 0 {
		t.Errorf("pulled again: %s", <-runtime.begun)
	}
	// Another's credentials are another pull, and no more than two run at once.
	ctx, cancel := context.WithCancel(t.Context())
	for _, user := range []string{"ann", "bob", "eve"} {
		ask(ctx, "b", registry.Keyring{{Key: "docker.io", Username: user}}, context.Canceled)
	}
	waiting(3)
	if one, two := <-runtime.begun, <-runtime.begun; one != "b" || two != "b" || len(runtime.begun) != 0 {
		t.Errorf("began %s, %s and %d more", one, two, len(runtime.begun))
	}
	cancel() // nobody waits any more
	wg.Wait()
	p.wait()
	if one, two := <-runtime.begun, <-runtime.begun; one != "ended b" || two != "ended b" || len(runtime.begun) != 0 {
		t.Errorf("ended %s, %s and %d more", one, two, len(runtime.begun))
	}
}

// A secret opens a private image to its own pods only.
func TestPrivateImagesStayPrivate(t *testing.T) {
	r := newRig(t)
	auth := base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	for name, ns := range map[string]string{"pull": "default"} {
		_, err := r.client.CoreV1().Secrets(ns).Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: v1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(`{"auths":{"r.example.com":{"auth":"` + auth + `"}}}`)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	const image = "r.example.com/team/app:1"
	r.runtime.onPullWith = func(ref string, ring registry.Keyring) (Pulled, error) {
		if fitting := ring.For("r.example.com/team/app"); len(fitting) == 1 && fitting[0].Password == "secret" {
			return Pulled{Image: Image{ID: "sha256:private", Names: []string{ref}, Digests: []string{"r.example.com/team/app@sha256:1"}}, Used: &fitting[0]}, nil
		}
		return Pulled{}, errors.New("401 Unauthorized")
	}
	pod := func(name string, policy v1.PullPolicy, secrets ...string) {
		r.create(testPod(name, func(p *v1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, policy
			for _, s := range secrets {
				p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, v1.LocalObjectReference{Name: s})
			}
		}))
	}
	pod("owner", v1.PullIfNotPresent, "missing", "pull")
	running := r.wait("owner", "it is ready", ready)
	if id := running.Status.ContainerStatuses[0].ImageID; id != "r.example.com/team/app@sha256:1" {
		t.Errorf("imageID %s", id)
	}
	pod("stranger", v1.PullIfNotPresent)
	refused := r.waitReason("stranger", "ErrImagePull")
	if message := refused.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(message, "401") {
		t.Errorf("the stranger is told %q", message)
	}
	pod("never", v1.PullNever)
	r.waitReason("never", "ErrImageNeverPull")
	pod("friend", v1.PullNever, "pull")
	r.wait("friend", "it is ready", ready)
}

func testKeeper(runtime Runtime, cfg ImageConfig) *imageKeeper {
	if err := cfg.complete(); err != nil {
		panic(err)
	}
	return &imageKeeper{
		cfg: cfg, runtime: runtime, usages: map[string]*imageUsage{}, begun: time.Now().Add(-24 * time.Hour),
		inUse: func(i Image) bool { return slices.Contains(i.Names, "used") },
		left:  func([]string, time.Time) error { return nil },
		warn:  func(string, string, ...any) {},
		disk:  func() (int64, int64, error) { return 1000, 1000, nil },
	}
}

func TestImageCollection(t *testing.T) {
	now := time.Now()
	hours := func(n int) time.Time { return now.Add(-time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		name      string
		cfg       ImageConfig
		available int64 // of 1000; each image takes 100
		all       bool  // deleteUnused
		want      string
		warns     string
		err       string
	}{
		{name: "room enough", available: 160},
		{name: "over the high threshold", available: 150, want: "old"},
		{name: "as many as it takes, the least recently used first", available: 20, want: "old older-by-name"},
		{name: "lower thresholds", cfg: ImageConfig{GCHigh: 60, GCLow: 40}, available: 400, want: "old older-by-name"},
		{name: "all is not enough", available: 0, cfg: ImageConfig{GCHigh: 85, GCLow: 10}, want: "old older-by-name new", warns: "FreeDiskSpaceFailed",
			err: "Insufficient free disk space on the node's image filesystem (100% of 1k used). Failed to free sufficient space by deleting unused images (freed 300 bytes)"},
		{name: "too old", available: 900, cfg: ImageConfig{MaxAge: 150 * time.Minute}, want: "old older-by-name"},
		{name: "disk pressure", available: 900, all: true, want: "old older-by-name new"},
	} {
		runtime := newFakeRuntime()
		runtime.images = map[string]Image{}
		for _, name := range []string{"old", "older-by-name", "new", "used", "pinned", "fresh"} {
			runtime.images[name] = Image{ID: name, Names: []string{name}, Size: 100, Pinned: name == "pinned"}
		}
		k := testKeeper(runtime, c.cfg)
		var warned []string
		k.warn = func(reason, _ string, _ ...any) { warned = append(warned, reason) }
		k.disk = func() (int64, int64, error) {
			runtime.mu.Lock()
			defer runtime.mu.Unlock()
			return 1000, c.available + int64(6-len(runtime.images))*100, nil
		}
		k.usages = map[string]*imageUsage{"old": {hours(9), hours(4)}, "older-by-name": {hours(9), hours(3)}, "new": {hours(9), hours(1)},
			"used": {hours(9), hours(9)}, "pinned": {hours(9), hours(9)}, "fresh": {now, time.Time{}}}
		var err error
		if c.all {
			err = k.deleteUnused(t.Context())
		} else {
			err = k.collect(t.Context(), now)
		}
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		got := strings.ReplaceAll(strings.Join(runtime.history(), " "), "remove ", "")
		if got != c.want || strings.Join(warned, " ") != c.warns {
			t.Errorf("%s: removed %q, want %q; warned of %v", c.name, got, c.want, warned)
		}
	}
}

func TestImagesInTheNodesStatus(t *testing.T) {
	var images []Image
	for i := range 60 {
		images = append(images, Image{ID: fmt.Sprint(i), Names: []string{fmt.Sprintf("tag:%d", i)}, Digests: []string{fmt.Sprintf("repo@sha256:%d", i)}, Size: int64(i)})
	}
	images[59].Names = []string{"a", "b", "c", "d", "e", "f"}
	got := nodeImages(images)
	if len(got) != 50 || got[0].SizeBytes != 59 || got[49].SizeBytes != 10 || !slices.Equal(got[0].Names, []string{"repo@sha256:59", "a", "b", "c", "d"}) {
		t.Errorf("%d images, the first %+v", len(got), got[0])
	}
}

func TestImageConfig(t *testing.T) {
	for _, bad := range []ImageConfig{{Parallel: -1}, {GCHigh: 101}, {GCHigh: 50, GCLow: 60}, {GCLow: -1, GCHigh: 5}} {
		if err := bad.complete(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	c := ImageConfig{GCHigh: 70, Serial: true}
	if err := c.complete(); err != nil || c.GCLow != 70 || c.Parallel != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}
