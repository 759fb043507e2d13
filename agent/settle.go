package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// patience is how long a starting agent waits for the masters before it looks after the pods it remembers.
const patience = 3 * time.Second

// settle waits for the API's pods and then removes what belongs to none of them. If the masters stay away, the pods that
// an earlier agent wrote down are looked after until they return.
func (a *Agent) settle(ctx context.Context, pods cache.ResourceEventHandlerRegistration) {
	synced := pods.HasSyncedChecker().Done()
	select {
	case <-ctx.Done():
		return
	case <-synced:
	case <-time.After(patience):
		a.log.Warn("no master answers; looking after the pods known from before")
		a.recall(ctx)
		select {
		case <-ctx.Done():
			return
		case <-synced:
		}
	}
	a.mu.Lock()
	a.settled = true
	a.mu.Unlock()
	a.crowdChanged()
	a.forget(ctx)
	a.sweepAlways(ctx)
}

// sweepEvery is how often an agent looks for what is left of pods that are gone, beside once at its start: each worker removes what
// its pod had, so there should never be anything.
const sweepEvery = 10 * time.Minute

func (a *Agent) sweepAlways(ctx context.Context) {
	failed := 0
	for {
		next := sweepEvery
		if err := a.sweep(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("cleaning up after pods that are gone", "err", err)
			next = grow(time.Second, time.Minute, failed)
			failed++
		} else {
			failed = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

func (a *Agent) checkpointPath(uid string) string {
	return filepath.Join(a.volumes.PodDir(uid), "pod.json")
}

// checkpoint writes the pod down as it was granted, so that an agent that starts while no master answers knows what to run.
func (a *Agent) checkpoint(pod *v1.Pod) {
	uid := string(pod.UID)
	a.mu.Lock()
	saved, known := a.saved[uid]
	a.saved[uid] = pod.Generation
	a.mu.Unlock()
	if known && saved == pod.Generation {
		return
	}
	a.saving.Lock()
	defer a.saving.Unlock()
	if w := a.worker(uid); w != nil {
		pod = w.look().pod
	}
	path := a.checkpointPath(uid)
	b, err := json.Marshal(pod)
	if err == nil && pod.DeletionTimestamp == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = writeFile(path, b)
	}
	if errors.Is(err, os.ErrNotExist) {
		return // it is being deleted, and its directory is gone already
	}
	if err != nil {
		a.log.Warn("writing a pod down", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// writeFile replaces a file as a whole. What it holds is for root alone: specifications may have secrets in plain variables.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// recall starts workers for the pods written down.
func (a *Agent) recall(ctx context.Context) {
	files, err := filepath.Glob(filepath.Join(a.volumes.Dir, "*", "pod.json"))
	if err != nil {
		return
	}
	for _, f := range files {
		pod := &v1.Pod{}
		b, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(b, pod)
		}
		if err != nil || pod.UID == "" {
			a.log.Warn("reading a pod written down", "file", f, "err", err)
			continue
		}
		if a.worker(string(pod.UID)) == nil {
			a.ensure(ctx, pod)
		}
	}
}

// forget ends the workers of recalled pods that the API does not know any more.
func (a *Agent) forget(context.Context) {
	for _, w := range a.snapshot() {
		pod := w.look().pod
		if w.static {
			continue
		}
		o, ok, err := a.pods.GetStore().GetByKey(pod.Namespace + "/" + pod.Name)
		if err != nil || ok && o.(*v1.Pod).UID == pod.UID {
			continue
		}
		w.tell(func(in *inbox) { in.gone = true })
	}
}

// sweep removes sandboxes, networks and directories that belong to no pod of this node.
func (a *Agent) sweep(ctx context.Context) error {
	orphans := map[string]PodRef{}
	add := func(ref PodRef) {
		if ref.UID != "" && a.worker(ref.UID) == nil && orphans[ref.UID].Name == "" {
			orphans[ref.UID] = ref
		}
	}
	sandboxes, err := a.runtime.Sandboxes(ctx)
	if err != nil {
		return fmt.Errorf("listing sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		add(s.Pod)
	}
	containers, err := a.runtime.Containers(ctx)
	if err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	for _, c := range containers {
		add(c.Pod)
	}
	networks, err := a.network.Pods(ctx)
	if err != nil {
		return fmt.Errorf("listing pod networks: %w", err)
	}
	for _, uid := range networks {
		add(PodRef{UID: uid})
	}
	dirs, err := os.ReadDir(a.volumes.Dir)
	if err != nil {
		return fmt.Errorf("listing pod directories: %w", err)
	}
	for _, d := range dirs {
		add(PodRef{UID: d.Name()})
	}
	var errs []error
	for _, ref := range orphans {
		a.log.Info("removing what is left of a pod", "pod", ref.Namespace+"/"+ref.Name, "uid", ref.UID)
		errs = append(errs, a.network.Teardown(ctx, ref.UID), a.scrubOrphan(ctx, ref))
	}
	return errors.Join(append(errs, a.sweepLogs())...)
}

func (a *Agent) scrubOrphan(ctx context.Context, ref PodRef) error {
	if err := a.runtime.RemoveSandbox(ctx, ref.UID); err != nil {
		return err
	}
	return errors.Join(a.volumes.Remove(ctx, ref.UID), a.ids.release(ref.UID))
}

// sweepLogs removes log directories of pods that are gone.
func (a *Agent) sweepLogs() error {
	known := map[string]bool{}
	for _, w := range a.snapshot() {
		pod := w.look().pod
		known[a.logDir(PodRef{pod.Namespace, pod.Name, w.uid})] = true
	}
	dirs, err := os.ReadDir(a.cfg.LogDir)
	if err != nil {
		return fmt.Errorf("listing logs: %w", err)
	}
	var errs []error
	for _, d := range dirs {
		if path := filepath.Join(a.cfg.LogDir, d.Name()); d.IsDir() && !known[path] {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
