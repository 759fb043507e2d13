package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
)

// Annotations of static pods and their mirrors in the API.
const (
	hashAnnotation   = "kubernetes.io/config.hash"
	seenAnnotation   = "kubernetes.io/config.seen"
	sourceAnnotation = "kubernetes.io/config.source"
	mirrorAnnotation = v1.MirrorPodAnnotationKey
	sourceFile       = "file"
)

const (
	manifestsEvery  = 20 * time.Second // a safety net; changes come as notices
	manifestsSettle = 50 * time.Millisecond
)

func isMirror(pod *v1.Pod) bool { return pod.Annotations[mirrorAnnotation] != "" }

// runStatic runs the pods of the manifest directory and shows each in the API as a mirror pod.
func (a *Agent) runStatic(ctx context.Context) {
	if a.cfg.ManifestDir == "" {
		return
	}
	changes, stop := a.watchManifests()
	defer stop()
	synced := a.pods.HasSyncedChecker().Done()
	for {
		a.syncMirrors(ctx)
		select {
		case <-ctx.Done():
			return
		case <-synced:
			synced = nil
		case <-changes:
		case <-a.mirrors:
		case <-time.After(manifestsEvery):
		}
		// An editor writes in several steps; let it finish.
		select {
		case <-ctx.Done():
			return
		case <-time.After(manifestsSettle):
		}
		a.readManifests(ctx)
	}
}

func (a *Agent) watchManifests() (<-chan fsnotify.Event, func()) {
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

// readManifests brings the workers of static pods to what the directory holds.
func (a *Agent) readManifests(ctx context.Context) {
	if a.cfg.ManifestDir == "" {
		return
	}
	entries, err := os.ReadDir(a.cfg.ManifestDir)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			a.log.Warn("reading the manifest directory", "err", err)
			return
		}
	}
	want := map[string]*v1.Pod{}
	for _, e := range entries {
		name := e.Name()
		ext := filepath.Ext(name)
		if e.IsDir() || strings.HasPrefix(name, ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			continue
		}
		pod, err := a.readManifest(filepath.Join(a.cfg.ManifestDir, name))
		if err != nil {
			a.log.Error("a manifest is not usable", "file", name, "err", err)
			continue
		}
		want[string(pod.UID)] = pod
	}
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
		if a.worker(uid) == nil {
			a.ensure(ctx, pod)
		}
	}
}

// readManifest makes a pod of a file. Its UID is the hash of the content, so a changed file is another pod.
func (a *Agent) readManifest(path string) (*v1.Pod, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(b, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	pod, ok := o.(*v1.Pod)
	if !ok {
		return nil, fmt.Errorf("it holds a %T, not a Pod", o)
	}
	if pod.Name == "" || len(pod.Spec.Containers) == 0 {
		return nil, errors.New("a pod needs a name and at least one container")
	}
	sum := sha256.Sum256(append([]byte(a.cfg.NodeName+"\x00"), b...))
	hash := hex.EncodeToString(sum[:16])
	pod.Name += "-" + strings.ToLower(a.cfg.NodeName)
	if pod.Namespace == "" {
		pod.Namespace = v1.NamespaceDefault
	}
	pod.UID, pod.Generation, pod.Spec.NodeName = types.UID(hash), 1, a.cfg.NodeName
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[hashAnnotation], pod.Annotations[sourceAnnotation] = hash, sourceFile
	pod.Annotations[seenAnnotation] = time.Now().Format(time.RFC3339Nano)
	defaultStatic(pod)
	return pod, nil
}

// defaultStatic fills in what the API server would.
func defaultStatic(pod *v1.Pod) {
	s := &pod.Spec
	if s.RestartPolicy == "" {
		s.RestartPolicy = v1.RestartPolicyAlways
	}
	if s.DNSPolicy == "" {
		s.DNSPolicy = v1.DNSClusterFirst
	}
	if s.TerminationGracePeriodSeconds == nil {
		s.TerminationGracePeriodSeconds = ptr.To[int64](v1.DefaultTerminationGracePeriodSeconds)
	}
	s.Tolerations = append(s.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	for _, list := range [][]v1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			c := &list[i]
			if c.TerminationMessagePath == "" {
				c.TerminationMessagePath = v1.TerminationMessagePathDefault
			}
			for j := range c.Ports {
				if c.Ports[j].Protocol == "" {
					c.Ports[j].Protocol = v1.ProtocolTCP
				}
			}
		}
	}
}

// syncMirrors makes the mirror pods that are missing and deletes those of manifests that are gone.
func (a *Agent) syncMirrors(ctx context.Context) {
	if !a.pods.HasSynced() {
		return
	}
	a.mu.Lock()
	want := make([]*v1.Pod, 0, len(a.static))
	for _, p := range a.static {
		want = append(want, p)
	}
	a.mu.Unlock()
	for _, o := range a.pods.GetStore().List() {
		pod := o.(*v1.Pod)
		if !isMirror(pod) {
			continue
		}
		mine := slices.ContainsFunc(want, func(w *v1.Pod) bool { return string(w.UID) == pod.Annotations[mirrorAnnotation] })
		if !mine || pod.DeletionTimestamp != nil {
			if err := a.deletePod(ctx, PodRef{pod.Namespace, pod.Name, string(pod.UID)}); err != nil {
				a.log.Warn("deleting a mirror pod", "pod", pod.Name, "err", err)
			}
			continue
		}
		a.mirrorSeen(pod)
	}
	for _, pod := range want {
		if _, there, err := a.pods.GetStore().GetByKey(pod.Namespace + "/" + pod.Name); err != nil || there {
			continue
		}
		if err := a.makeMirror(ctx, pod); err != nil && !apierrors.IsAlreadyExists(err) {
			a.log.Warn("making a mirror pod", "pod", pod.Name, "err", err)
		}
	}
}

func (a *Agent) makeMirror(ctx context.Context, pod *v1.Pod) error {
	mirror := pod.DeepCopy()
	mirror.UID, mirror.ResourceVersion, mirror.Generation = "", "", 0
	mirror.Annotations[mirrorAnnotation] = mirror.Annotations[hashAnnotation]
	if node := a.self(); node != nil {
		mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: ptr.To(true)}}
	}
	_, err := a.client.CoreV1().Pods(pod.Namespace).Create(ctx, mirror, metav1.CreateOptions{})
	return err
}

// mirrorSeen ties a mirror pod to the worker of its static pod.
func (a *Agent) mirrorSeen(mirror *v1.Pod) {
	if w := a.worker(mirror.Annotations[mirrorAnnotation]); w != nil {
		w.tell(func(in *inbox) { in.api = mirror })
	}
}

// mirrorGone has a deleted mirror made again, if its manifest is still there.
func (a *Agent) mirrorGone(*v1.Pod) {
	select {
	case a.mirrors <- struct{}{}:
	default:
	}
}
