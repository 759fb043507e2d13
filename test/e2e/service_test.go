package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// TestUserspaceServices runs the service part again with the user-space proxy instead of iptables.
func TestUserspaceServices(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Name: "e2euser", Masters: 1, Demo: true,
		Args: []string{"--service-mode", "userspace", "--balance", "roundrobin"}})
	t.Run("ServiceFromPodNodeAndHost", func(t *testing.T) { serviceFromPodNodeAndHost(t, c) })
	t.Run("ServiceFollowsReadiness", func(t *testing.T) { serviceFollowsReadiness(t, c) })
}

// from is a place on the network; fetch asks url once from there, over a new connection, and returns the body.
type from struct {
	name  string
	fetch func(ctx context.Context, url string) cluster.Output
}

func places(t *testing.T, c *cluster.Cluster) []from {
	t.Helper()
	if out := c.Mgr(t.Context(), "get", "pod", "client"); out.Code != 0 {
		c.Must(t, "run", "client", "--image", "mgr/demo:1", "--command", "--", "sleep", "3600")
	}
	c.Must(t, "wait", "pod/client", "--for", "condition=Ready", "--timeout", "30s")
	fetch := demoProgram(t)
	all := []from{
		{"pod", func(ctx context.Context, url string) cluster.Output {
			return c.Mgr(ctx, "exec", "client", "--", "fetch", url)
		}},
		{"host", func(ctx context.Context, url string) cluster.Output {
			return cluster.Run(exec.CommandContext(ctx, fetch, "fetch", url))
		}},
	}
	for _, node := range []string{"node-1", "node-2"} {
		ns := "--net=/run/netns/" + c.Name + "-" + node
		all = append(all, from{node, func(ctx context.Context, url string) cluster.Output {
			return cluster.Run(exec.CommandContext(ctx, "nsenter", ns, fetch, "fetch", url))
		}})
	}
	return all
}

// demoProgram builds the program of the demo image for this machine: its fetch gets a URL once, over a new connection.
func demoProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", path, "mgr/demo").CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, out)
	}
	return path
}

// urls of the demo: its cluster IP, and its node port on every node.
func urls(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	svc, err := c.Kube.CoreV1().Services("default").Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"http://" + svc.Spec.ClusterIP + "/"}
	nodes, err := c.Kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		all = append(all, "http://"+net.JoinHostPort(n.Status.Addresses[0].Address, "30080")+"/")
	}
	return all
}

// reached asks url until every one of want has answered and nobody else does.
func reached(ctx context.Context, p from, url string, want []string) error {
	missing := map[string]bool{}
	for _, w := range want {
		missing[w] = true
	}
	for range 30 * len(want) {
		out := p.fetch(ctx, url)
		if out.Code != 0 {
			return fmt.Errorf("%s from %s: exit %d: %s%s", url, p.name, out.Code, out.Stdout, out.Stderr)
		}
		who := ""
		for _, w := range want {
			if strings.Contains(out.Stdout, w) {
				who = w
			}
		}
		if who == "" {
			return fmt.Errorf("%s from %s: answered by none of %v: %s", url, p.name, want, out.Stdout)
		}
		delete(missing, who)
		if len(missing) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%s from %s: never reached %v", url, p.name, missing)
}

func readyNames(ctx context.Context, c *cluster.Cluster) ([]string, error) {
	pods, err := readyPods(ctx, c, "app=hello")
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	if err == nil && len(names) == 0 {
		err = errors.New("no pod of the demo is ready")
	}
	return names, err
}

func serviceFromPodNodeAndHost(t *testing.T, c *cluster.Cluster) {
	c.Must(t, "rollout", "status", "deployment/hello", "--timeout", "60s")
	names, err := readyNames(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places(t, c) {
		for _, url := range urls(t, c) {
			cluster.Eventually(t, 30*time.Second, "every ready backend answers "+url+" from "+p.name, func(ctx context.Context) error {
				return reached(ctx, p, url, names)
			})
		}
	}
}

// serviceFollowsReadiness: a backend that is not ready, or deleted, gets nothing; new ones get their share.
func serviceFollowsReadiness(t *testing.T, c *cluster.Cluster) {
	node := places(t, c)[2]
	url := urls(t, c)[0]
	follow := func(what string, want int, without string) {
		t.Helper()
		cluster.Eventually(t, time.Minute, what, func(ctx context.Context) error {
			names, err := readyNames(ctx, c)
			if err != nil {
				return err
			}
			for _, n := range names {
				if n == without {
					return fmt.Errorf("%s is still ready", n)
				}
			}
			if len(names) != want {
				return fmt.Errorf("%d pods are ready, not %d", len(names), want)
			}
			return reached(ctx, node, url, names)
		})
	}
	c.Must(t, "scale", "deployment", "hello", "--replicas", "3")
	follow("three backends answer", 3, "")
	names, err := readyNames(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	setReady(t, c, names[0], false)
	follow("an unready backend is left out", 2, names[0])
	setReady(t, c, names[0], true)
	follow("it is back when it is ready again", 3, "")
	c.Must(t, "delete", "pod", names[1], "--wait=false")
	follow("a deleted backend is replaced", 3, names[1])
	c.Must(t, "scale", "deployment", "hello", "--replicas", "5")
	follow("scaling adds backends", 5, "")
	c.Must(t, "scale", "deployment", "hello", "--replicas", "3")
	follow("scaling down removes them", 3, "")
}

// setReady makes the demo's readiness probe succeed or fail, through the API's proxy to the pod.
func setReady(t *testing.T, c *cluster.Cluster, pod string, ready bool) {
	t.Helper()
	err := c.Kube.CoreV1().RESTClient().Put().Namespace("default").Resource("pods").Name(pod+":8080").SubResource("proxy").
		Suffix("readyz").Param("ready", strconv.FormatBool(ready)).Do(t.Context()).Error()
	if err != nil {
		t.Fatalf("make %s ready=%v: %v", pod, ready, err)
	}
}

func clusterDNS(t *testing.T, c *cluster.Cluster) {
	pod := places(t, c)[0]
	for _, name := range []string{"hello", "hello.default", "hello.default.svc.cluster.local"} {
		cluster.Eventually(t, 20*time.Second, "DNS name "+name, func(ctx context.Context) error {
			return expect(pod.fetch(ctx, "http://"+name+"/"), "hello-")
		})
	}
	if out := pod.fetch(t.Context(), "http://nobody.default.svc.cluster.local/"); out.Code == 0 {
		t.Errorf("a service that does not exist resolved: %s", out.Stdout)
	}
}

func portForward(t *testing.T, c *cluster.Cluster) {
	fetch := demoProgram(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, cluster.Binary(t), "port-forward", "deployment/hello", "38080:8080")
	cmd.Env = append(cmd.Environ(), "MGRCONFIG="+c.Kubeconfig)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		// It was killed; how it says so does not matter.
		_ = cmd.Wait()
	}()
	cluster.Eventually(t, 15*time.Second, "the forwarded port answers", func(ctx context.Context) error {
		return expect(cluster.Run(exec.CommandContext(ctx, fetch, "fetch", "http://127.0.0.1:38080/")), "hello-")
	})
}
