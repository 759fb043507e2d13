package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
)

// Annotations of static pods and their mirrors in the API.
const (
	hashAnnotation   = "kubernetes.io/config.hash"
	seenAnnotation   = "kubernetes.io/config.seen"
	sourceAnnotation = "kubernetes.io/config.source"
	mirrorAnnotation = v1.MirrorPodAnnotationKey
	sourceFile       = "file"
	sourceURL        = "http"
)

const (
	manifestsEvery  = 20 * time.Second // of the directory a safety net, for changes come as notices
	manifestsSettle = 50 * time.Millisecond
	maxManifest     = 10 << 20 // bytes that a URL may answer with
)

func isMirror(pod *v1.Pod) bool { return pod.Annotations[mirrorAnnotation] != "" }

// manifests are the static pods that this node is told to run, by their sources. Only the goroutine of runStatic, and Run before
// it begins, use them.
type manifests struct {
	files map[string]*manifestFile // by name
	url   []*v1.Pod                // as last answered
	body  []byte
	fails int // of the URL in a row
	told  map[string]bool
}

// manifestFile is a file's content and what it was last good for.
type manifestFile struct {
	text []byte
	pod  *v1.Pod
}

// runStatic runs the pods of the manifest directory and of the manifest URL, and shows each in the API as a mirror pod.
func (a *Agent) runStatic(ctx context.Context) {
	if a.cfg.ManifestDir == "" && a.cfg.ManifestURL == "" {
		return
	}
	changes, stop := a.watchManifests()
	defer stop()
	synced := a.pods.HasSyncedChecker().Done()
	every := time.NewTicker(manifestsEvery)
	defer every.Stop()
	a.readURL(ctx)
	for {
		a.applyManifests(ctx)
		a.syncMirrors(ctx)
		select {
		case <-ctx.Done():
			return
		case <-synced:
			synced = nil
			continue
		case <-a.mirrors:
			continue
		case <-changes:
		case <-every.C:
			a.readURL(ctx)
		}
		// An editor writes in several steps; let it finish.
		select {
		case <-ctx.Done():
			return
		case <-time.After(manifestsSettle):
		}
		a.readManifests()
	}
}

func (a *Agent) watchManifests() (<-chan fsnotify.Event, func()) {
	if a.cfg.ManifestDir == "" {
		return nil, func() {}
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(a.cfg.ManifestDir); err != nil {
			w.Close()
		}
	}
	if err != nil {
		a.log.Warn("the manifest directory is only looked at now and then", "dir", a.cfg.ManifestDir, "err", err)
		return nil, func() {}
	}
	return w.Events, func() { w.Close() }
}

// readManifests reads the directory. A file that cannot be used, because it is half written or was spoilt, keeps what it was
// good for last.
func (a *Agent) readManifests() {
	if a.cfg.ManifestDir == "" {
		return
	}
	entries, err := os.ReadDir(a.cfg.ManifestDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Warn("reading the manifest directory", "err", err)
		return
	}
	old := a.manifests.files
	a.manifests.files = map[string]*manifestFile{}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.HasPrefix(name, ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			continue
		}
		m := old[name]
		if m == nil {
			m = &manifestFile{}
		}
		a.manifests.files[name] = m
		if err := a.readManifest(m, filepath.Join(a.cfg.ManifestDir, name)); err != nil {
			a.log.Error("a manifest is not usable", "file", name, "err", err)
		}
	}
}

func (a *Agent) readManifest(m *manifestFile, path string) error {
	b, err := os.ReadFile(path)
	if err != nil || m.text != nil && bytes.Equal(b, m.text) {
		return err
	}
	m.text = b
	pods, err := decodeManifests(b)
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("it holds %d pods, not one", len(pods))
	}
	pod, err := a.staticPod(pods[0], sourceFile, path)
	if err == nil {
		m.pod = pod
	}
	return err
}

// readURL asks for the manifests of the URL. While it does not answer well, the pods of its last good answer stay.
func (a *Agent) readURL(ctx context.Context) {
	if a.cfg.ManifestURL == "" {
		return
	}
	m := &a.manifests
	err := a.fetchManifests(ctx)
	switch {
	case err == nil:
		m.fails = 0
	case ctx.Err() == nil:
		if m.fails++; m.fails <= 3 {
			a.log.Warn("reading static pods from the manifest URL", "url", a.cfg.ManifestURL, "err", err)
		}
	}
}

func (a *Agent) fetchManifests(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, manifestsEvery/2)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.cfg.ManifestURL, nil)
	if err != nil {
		return err
	}
	for name, values := range a.cfg.ManifestURLHeader {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	m := &a.manifests
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("it answers %s", resp.Status)
	case len(body) == 0:
		return errors.New("it answers nothing")
	case len(body) > maxManifest:
		return fmt.Errorf("it answers more than %d bytes", maxManifest)
	case bytes.Equal(body, m.body):
		return nil
	}
	if err := a.useURL(body); err != nil {
		return err
	}
	return writeFile(a.urlPath(), append([]byte(a.cfg.ManifestURL+"\n"), body...))
}

// urlPath is where the URL's last good answer is kept, so that an agent that starts while it is away knows what to run.
func (a *Agent) urlPath() string { return filepath.Join(a.cfg.Dir, "manifest-url") }

func (a *Agent) recallURL() {
	if a.cfg.ManifestURL == "" {
		return
	}
	b, err := os.ReadFile(a.urlPath())
	if url, body, ok := bytes.Cut(b, []byte("\n")); err == nil && ok && string(url) == a.cfg.ManifestURL {
		err = a.useURL(body)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Warn("reading what the manifest URL answered before", "err", err)
	}
}

func (a *Agent) useURL(body []byte) error {
	decoded, err := decodeManifests(body)
	if err != nil {
		return err
	}
	pods := make([]*v1.Pod, 0, len(decoded))
	for i, p := range decoded {
		pod, err := a.staticPod(p, sourceURL, a.cfg.ManifestURL)
		if err != nil {
			return fmt.Errorf("pod %d: %w", i, err)
		}
		pods = append(pods, pod)
	}
	a.manifests.url, a.manifests.body = pods, body
	return nil
}

// wantedStatic lists the pods of all sources by UID. Of several with one name the first counts: files by their names, then the URL.
func (a *Agent) wantedStatic() map[string]*v1.Pod {
	m := &a.manifests
	var all []*v1.Pod
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if pod := m.files[name].pod; pod != nil {
			all = append(all, pod)
		}
	}
	want, names, told := map[string]*v1.Pod{}, map[string]bool{}, map[string]bool{}
	for _, pod := range append(all, m.url...) {
		name := pod.Namespace + "/" + pod.Name
		if !names[name] {
			names[name], want[string(pod.UID)] = true, pod
			continue
		}
		told[name] = true
		if !m.told[name] {
			a.log.Error("several manifests have one name; the first counts", "pod", name)
		}
	}
	m.told = told
	return want
}

// applyManifests brings the workers of static pods to what the sources hold.
func (a *Agent) applyManifests(ctx context.Context) {
	want := a.wantedStatic()
	a.mu.Lock()
	var gone []*worker
	for uid := range a.static {
		if w := a.workers[uid]; want[uid] == nil && w != nil {
			gone = append(gone, w)
		}
	}
	a.static = want
	a.mu.Unlock()
	for _, w := range gone {
		w.tell(func(in *inbox) { in.gone = true })
	}
	for uid, pod := range want {
		// A changed manifest waits until its former pod has ended; that one's worker tells (done).
		if a.worker(uid) == nil && !a.namesake(pod) {
			a.ensure(ctx, pod)
		}
	}
}

// namesake: another static pod of that name is still there.
func (a *Agent) namesake(pod *v1.Pod) bool {
	return slices.ContainsFunc(a.snapshot(), func(w *worker) bool {
		p := w.look().pod
		return w.static && p.Namespace == pod.Namespace && p.Name == pod.Name
	})
}
