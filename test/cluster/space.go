package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Space is a namespace of one test's own.
type Space struct {
	*Cluster
	Namespace string
	t         testing.TB
}

// Space makes a namespace that is deleted, with all in it, when the test ends.
func (c *Cluster) Space(t testing.TB) *Space {
	t.Helper()
	made, err := c.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}},
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := &Space{Cluster: c, Namespace: made.Name, t: t}
	t.Cleanup(s.remove)
	Eventually(t, 20*time.Second, "the namespace has its service account", func(ctx context.Context) error {
		_, err := c.Kube.CoreV1().ServiceAccounts(s.Namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return s
}

func (s *Space) remove() {
	ctx := context.Background()
	if s.t.Failed() {
		s.t.Logf("%s%s", s.Mgr(ctx, "-n", s.Namespace, "describe", "pods").Stdout, s.Mgr(ctx, "-n", s.Namespace, "get", "pods", "-o", "wide").Stdout)
	}
	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}
	err := errors.Join(s.Kube.CoreV1().Pods(s.Namespace).DeleteCollection(ctx, now, metav1.ListOptions{}),
		s.Kube.CoreV1().Namespaces().Delete(ctx, s.Namespace, metav1.DeleteOptions{}))
	if err != nil {
		s.t.Errorf("remove the test's namespace: %v", err)
	}
}

// BusyboxImage is on all nodes after ImportImages.
const BusyboxImage = "mgr/busybox:1"

// Busybox is a pod that runs a shell script and needs one second at the most to be ended.
func Busybox(name, script string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](1),
		Containers:                    []corev1.Container{{Name: "main", Image: BusyboxImage, Command: []string{"sh", "-c", script}}},
	}}
}

// Images is the archive of a test image: in $MGR_IMAGES, or bin/images of this checkout.
func Images(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("MGR_IMAGES")
	if dir == "" {
		dir = filepath.Join(filepath.Dir(Binary(t)), "images")
	}
	return filepath.Join(dir, name+".tar.gz")
}

// ImportImages puts BusyboxImage on all nodes.
func (c *Cluster) ImportImages(t testing.TB) {
	t.Helper()
	c.Must(t, "image", "import", Images(t, "busybox"))
}

// Create makes a pod and does not wait for it.
func (s *Space) Create(p *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	made, err := s.Kube.CoreV1().Pods(s.Namespace).Create(s.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatalf("create pod %s: %v", p.Name, err)
	}
	return made
}

// Run makes a pod and waits until all its containers are ready, or until it has finished.
func (s *Space) Run(p *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	s.Create(p)
	return s.Await(p.Name, "is ready or has finished", func(p *corev1.Pod) bool { return Ready(p) || Finished(p) })
}

// Await waits up to a minute for a pod to be as wanted, and returns it.
func (s *Space) Await(name, what string, as func(*corev1.Pod) bool) *corev1.Pod {
	s.t.Helper()
	var last *corev1.Pod
	Eventually(s.t, time.Minute, "pod "+name+" "+what, func(ctx context.Context) error {
		p, err := s.Kube.CoreV1().Pods(s.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if last = p; !as(p) {
			return fmt.Errorf("it is %s: %+v", p.Status.Phase, p.Status)
		}
		return nil
	})
	return last
}

// Get reads a pod.
func (s *Space) Get(name string) *corev1.Pod {
	s.t.Helper()
	p, err := s.Kube.CoreV1().Pods(s.Namespace).Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// Delete deletes a pod with a grace period in seconds and waits until it is gone.
func (s *Space) Delete(name string, grace int64) {
	s.t.Helper()
	err := s.Kube.CoreV1().Pods(s.Namespace).Delete(s.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if err != nil && !apierrors.IsNotFound(err) {
		s.t.Fatal(err)
	}
	s.AwaitGone(name)
}

// AwaitGone waits up to a minute until a pod does not exist any more.
func (s *Space) AwaitGone(name string) {
	s.t.Helper()
	Eventually(s.t, time.Minute, "pod "+name+" is gone", func(ctx context.Context) error {
		p, err := s.Kube.CoreV1().Pods(s.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("it is %s, deleted at %v: %+v", p.Status.Phase, p.DeletionTimestamp, p.Status)
	})
}

// Logs returns a container's log as the API serves it; further arguments are those of `mgr logs`.
func (s *Space) Logs(pod, container string, args ...string) string {
	s.t.Helper()
	return s.Must(s.t, append([]string{"-n", s.Namespace, "logs", pod, "-c", container}, args...)...)
}

// Exec runs a command in a container.
func (s *Space) Exec(pod, container string, command ...string) Output {
	return s.Mgr(s.t.Context(), append([]string{"-n", s.Namespace, "exec", pod, "-c", container, "--"}, command...)...)
}

// Events are what is told of a pod, each as "Reason: message", the oldest first.
func (s *Space) Events(pod string) []string {
	s.t.Helper()
	list, err := s.Kube.CoreV1().Events(s.Namespace).List(s.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		s.t.Fatal(err)
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return a.FirstTimestamp.Compare(b.FirstTimestamp.Time) })
	var out []string
	for _, e := range list.Items {
		out = append(out, e.Reason+": "+e.Message)
	}
	return out
}

// AwaitEvent waits up to a minute for an event that contains all of the words.
func (s *Space) AwaitEvent(pod string, words ...string) {
	s.t.Helper()
	Eventually(s.t, time.Minute, fmt.Sprintf("an event of pod %s with %q", pod, words), func(context.Context) error {
		all := s.Events(pod)
		for _, e := range all {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e, w) }) {
				return nil
			}
		}
		return fmt.Errorf("there are %q", all)
	})
}

// Ready says whether a pod that nobody deletes is ready.
func Ready(p *corev1.Pod) bool {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// Finished says whether a pod has succeeded or failed.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// StatusOf is the status of one container of a pod, of whichever kind; empty when there is none yet.
func StatusOf(p *corev1.Pod, container string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			if s.Name == container {
				return s
			}
		}
	}
	return corev1.ContainerStatus{}
}
