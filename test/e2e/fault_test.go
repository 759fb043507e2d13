package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// pods returns the live, ready pods that carry a label.
func readyPods(ctx context.Context, c *cluster.Cluster, label string) ([]corev1.Pod, error) {
	list, err := c.Kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return nil, err
	}
	var good []corev1.Pod
	for _, p := range list.Items {
		if cluster.Ready(&p) {
			good = append(good, p)
		}
	}
	return good, nil
}

// agentKilled: pods do not notice that their agent died, and the agent takes them over when it is back.
func agentKilled(t *testing.T, c *cluster.Cluster) {
	before, err := readyPods(t.Context(), c, "app")
	if err != nil || len(before) < 5 {
		t.Fatalf("%d pods are ready: %v", len(before), err)
	}
	killed := time.Now()
	for _, node := range []string{"node-1", "node-2"} {
		if err := c.Hosts.Do(t.Context(), node, "kill"); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Eventually(t, 30*time.Second, "agents are back", func(ctx context.Context) error {
		hosts, err := c.Hosts.Hosts(ctx)
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.Role == "node" && (h.State != "running" || h.Restarts == 0) {
				return fmt.Errorf("%s is %s after %d restarts", h.Name, h.State, h.Restarts)
			}
		}
		return nil
	})
	// Only an agent that is at work again can start this pod.
	c.Must(t, "run", "after", "--image", "mgr/demo:1")
	c.Must(t, "wait", "pod/after", "--for", "condition=Ready", "--timeout", "60s")
	for _, p := range before {
		now, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), p.Name, metav1.GetOptions{})
		if err != nil {
			t.Errorf("pod %s did not survive: %v", p.Name, err)
			continue
		}
		was, is := p.Status.ContainerStatuses[0], now.Status.ContainerStatuses[0]
		if was.ContainerID != is.ContainerID || is.RestartCount != was.RestartCount {
			t.Errorf("pod %s was restarted: %s (%d) became %s (%d)", p.Name, was.ContainerID, was.RestartCount, is.ContainerID, is.RestartCount)
		}
		if since := transition(now); since.After(killed) || !cluster.Ready(now) {
			t.Errorf("pod %s did not stay ready: %+v", p.Name, now.Status.Conditions)
		}
	}
	c.Must(t, "delete", "pod", "after", "--grace-period", "1")
}

// transition is when the pod last became ready or unready.
func transition(p *corev1.Pod) time.Time {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// leaderKilled: writes, controllers and scheduler go on at another master (test/failover measures it, with watches).
func leaderKilled(t *testing.T, c *cluster.Cluster) {
	old := leader(t, c)
	began := time.Now()
	kill(t, old.PID)
	cluster.Eventually(t, 20*time.Second, "a write after the leader's death", func(ctx context.Context) error {
		out := c.Mgr(ctx, "create", "configmap", "after-leader")
		if out.Code != 0 && !strings.Contains(out.Stderr, "already exists") {
			return errors.New(out.Stderr)
		}
		return nil
	})
	write := time.Since(began)
	c.Must(t, "run", "after-leader", "--image", "mgr/demo:1")
	cluster.Eventually(t, 20*time.Second, "a pod is placed by the new scheduler", func(ctx context.Context) error {
		p, err := c.Kube.CoreV1().Pods("default").Get(ctx, "after-leader", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Spec.NodeName == "" {
			return errors.New("not placed")
		}
		return nil
	})
	t.Logf("kill -9 of the leader (through the command line): first write after %s, new pod placed after %s", write.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	cluster.Eventually(t, 30*time.Second, "the killed master is back", func(context.Context) error {
		for _, m := range readMembers(t, c) {
			if !m.Reachable || m.PID == old.PID {
				return fmt.Errorf("%+v", m)
			}
		}
		return nil
	})
	c.Must(t, "delete", "pod/after-leader", "configmap/after-leader", "--grace-period", "1")
}

// allMastersKilled: what was acknowledged is there when they are back.
func allMastersKilled(t *testing.T, c *cluster.Cluster) {
	var names []string
	for i := range 20 {
		name := fmt.Sprintf("kept-%d", i)
		c.Must(t, "create", "configmap", name)
		names = append(names, name)
	}
	var pids []int
	for _, m := range readMembers(t, c) {
		pids = append(pids, m.PID)
	}
	kill(t, pids...)
	cluster.Eventually(t, time.Minute, "the quorum is back", func(ctx context.Context) error {
		return expect(c.Mgr(ctx, "get", "configmap", "kept-0"), "kept-0")
	})
	for _, name := range names {
		if out := c.Mgr(t.Context(), "get", "configmap", name); out.Code != 0 {
			t.Errorf("acknowledged, then lost: %s: %s", name, out.Stderr)
		}
	}
	c.Must(t, append([]string{"delete", "configmap"}, names...)...)
}

// nodeLost: the pods of a machine that disappears are replaced on the others, and the machine can come back.
func nodeLost(t *testing.T, c *cluster.Cluster) {
	onNode2 := func(ctx context.Context) int {
		pods, err := readyPods(ctx, c, "app=hello")
		if err != nil {
			return -1
		}
		n := 0
		for _, p := range pods {
			if p.Spec.NodeName == "node-2" {
				n++
			}
		}
		return n
	}
	if onNode2(t.Context()) < 1 {
		t.Fatal("the scheduler put no pod of the demo on node-2")
	}
	began := time.Now()
	if err := c.Hosts.Do(t.Context(), "node-2", "fail"); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, 30*time.Second, "node-2 is known to be lost", func(ctx context.Context) error {
		return expect(c.Mgr(ctx, "get", "nodes"), "NotReady")
	})
	detected := time.Since(began)
	cluster.Eventually(t, time.Minute, "three pods are ready elsewhere", func(ctx context.Context) error {
		pods, err := readyPods(ctx, c, "app=hello")
		if err != nil {
			return err
		}
		elsewhere := 0
		for _, p := range pods {
			if p.Spec.NodeName != "node-2" {
				elsewhere++
			}
		}
		if elsewhere < 3 {
			return fmt.Errorf("%d ready elsewhere", elsewhere)
		}
		return nil
	})
	t.Logf("node lost: detected after %s, pods replaced after %s", detected.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
	for _, verb := range []string{"heal", "start"} {
		if err := c.Hosts.Do(t.Context(), "node-2", verb); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Eventually(t, time.Minute, "node-2 is back and clean", func(ctx context.Context) error {
		out := c.Mgr(ctx, "get", "nodes")
		if strings.Count(out.Stdout, " Ready ") != 2 {
			return errors.New(out.Stdout)
		}
		pods, err := c.Kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node-2"})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if p.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s is still terminating", p.Name)
			}
		}
		return nil
	})
}

// nodeDeleted: a deleted node is refused at once; where it has a token, as here, it joins again as a new one.
func nodeDeleted(t *testing.T, c *cluster.Cluster) {
	old, err := c.Kube.CoreV1().Nodes().Get(t.Context(), "node-2", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Must(t, "delete", "node", "node-2")
	cluster.Eventually(t, time.Minute, "node-2 is back as another one", func(ctx context.Context) error {
		now, err := c.Kube.CoreV1().Nodes().Get(ctx, "node-2", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now.UID == old.UID {
			return errors.New("it is the same one")
		}
		return expect(c.Mgr(ctx, "wait", "node/node-2", "--for", "condition=Ready", "--timeout", "1s"), "condition met")
	})
}
