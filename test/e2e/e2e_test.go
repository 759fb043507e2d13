// Package e2e walks through everything that the README promises, on a cluster started by `mgr up`, with real containers.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// TestCluster shares one cluster between its parts, in the order of a user's first hour.
func TestCluster(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Name: "e2e", Demo: true})
	for _, part := range []struct {
		name string
		run  func(*testing.T, *cluster.Cluster)
	}{
		{"UpShowsTheDemo", upShowsTheDemo},
		{"KubectlCommands", kubectlCommands},
		{"UnmodifiedKubectl", unmodifiedKubectl},
		{"OldKubectl", oldKubectl},
		{"LogsAndExec", logsAndExec},
		{"Streams", streams},
		{"PortForward", portForward},
		{"Members", members},
		{"ServiceFollowsReadiness", serviceFollowsReadiness},
		{"ServiceFromPodNodeAndHost", serviceFromPodNodeAndHost},
		{"ClusterDNS", clusterDNS},
		{"ImageImport", imageImport},
		{"CrashingContainer", crashingContainer},
		{"Why", why},
		{"TimeTravel", timeTravel},
		{"BadInput", badInput},
		{"AgentKilled", agentKilled},
		{"LeaderKilled", leaderKilled},
		{"AllMastersKilled", allMastersKilled},
		{"NodeLost", nodeLost},
		{"NodeDeleted", nodeDeleted},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, c) }) && part.name == "UpShowsTheDemo" {
			return
		}
	}
}

func upShowsTheDemo(t *testing.T, c *cluster.Cluster) {
	for _, want := range []string{"3 masters and 2 nodes are up", "hello-", "classic-", "http://10.43.", ":30080", "mgr down", "export KUBECONFIG="} {
		if !strings.Contains(c.Up, want) {
			t.Errorf("`mgr up` does not print %q:\n%s", want, c.Up)
		}
	}
	again := c.Mgr(t.Context(), "up", "--name", "e2e", "--dir", c.Dir, "--no-demo")
	if again.Code != 1 || !strings.Contains(again.Stderr, "already running") {
		t.Errorf("a second `mgr up`: exit %d: %s", again.Code, again.Stderr)
	}
}

func kubectlCommands(t *testing.T, c *cluster.Cluster) {
	if out := c.Must(t, "get", "pods", "-o", "wide"); strings.Count(out, "Running") != 5 || !strings.Contains(out, "NODE") {
		t.Errorf("get pods -o wide:\n%s", out)
	}
	if out := c.Must(t, "get", "nodes"); strings.Count(out, " Ready ") != 2 {
		t.Errorf("get nodes:\n%s", out)
	}
	if out := c.Must(t, "describe", "pod", podOf(t, c, "app=hello")); !strings.Contains(out, "Successfully assigned") || !strings.Contains(out, "Started") {
		t.Errorf("describe pod lacks events:\n%s", out)
	}
	manifest := filepath.Join(t.TempDir(), "cm.yaml")
	write(t, manifest, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: e2e}\ndata: {a: '1'}\n")
	if out := c.Must(t, "apply", "-f", manifest); !strings.Contains(out, "configmap/e2e created") {
		t.Errorf("apply: %s", out)
	}
	write(t, manifest, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: e2e}\ndata: {b: '2'}\n")
	if out := c.Must(t, "apply", "-f", manifest); !strings.Contains(out, "configmap/e2e configured") {
		t.Errorf("apply again: %s", out)
	}
	if out := c.Must(t, "get", "cm", "e2e", "-o", "jsonpath={.data}"); out != `{"b":"2"}` {
		t.Errorf("apply did not remove a key: %s", out)
	}
	c.Must(t, "scale", "deployment", "hello", "--replicas", "5")
	c.Must(t, "rollout", "status", "deployment/hello", "--timeout", "60s")
	c.Must(t, "scale", "deployment", "hello", "--replicas", "3")
	c.Must(t, "set", "env", "deployment/hello", "ROUND=2")
	c.Must(t, "rollout", "status", "deployment/hello", "--timeout", "60s")
	if out := c.Must(t, "rollout", "history", "deployment/hello"); !strings.Contains(out, "2 ") {
		t.Errorf("rollout history: %s", out)
	}
	c.Must(t, "delete", "-f", manifest)
	if out := c.Mgr(t.Context(), "get", "cm", "e2e"); out.Code != 1 || !strings.Contains(out.Stderr, `configmaps "e2e" not found`) {
		t.Errorf("get of a deleted object: %+v", out)
	}
}

// kubectlVersion is what a release of kubectl is linked with; `kubectl version` refuses to compare without.
const kubectlVersion = "-X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

// podOf names one pod with a label.
func podOf(t *testing.T, c *cluster.Cluster, label string) string {
	t.Helper()
	pods, err := readyPods(t.Context(), c, label)
	if err != nil || len(pods) == 0 {
		t.Fatalf("no ready pod with %s: %v", label, err)
	}
	return pods[0].Name
}

// unmodifiedKubectl takes the kubeconfig that `mgr kubeconfig` prints to the real kubectl.
func unmodifiedKubectl(t *testing.T, c *cluster.Cluster) {
	dir := t.TempDir()
	kubectl := filepath.Join(dir, "kubectl")
	if out, err := exec.Command("go", "build", "-ldflags", kubectlVersion, "-o", kubectl, "mgr/test/kubectl").CombinedOutput(); err != nil {
		t.Fatalf("build kubectl: %v\n%s", err, out)
	}
	config := filepath.Join(dir, "config")
	write(t, config, c.Must(t, "kubeconfig"))
	for _, ctx := range []string{"mgr", "mgr-master-1", "mgr-master-2", "mgr-master-3"} {
		for _, args := range [][]string{{"get", "pods", "-A"}, {"get", "nodes", "-o", "wide"}, {"api-resources"}, {"version"}, {"explain", "pod.spec"}} {
			cmd := exec.CommandContext(t.Context(), kubectl, append([]string{"--kubeconfig", config, "--context", ctx}, args...)...)
			cmd.Env = append(os.Environ(), "HOME="+dir)
			if out := cluster.Run(cmd); out.Code != 0 {
				t.Errorf("kubectl --context %s %v: %+v", ctx, args, out)
			}
		}
	}
}

func logsAndExec(t *testing.T, c *cluster.Cluster) {
	c.Must(t, "image", "import", cluster.Images(t, "busybox"))
	c.Must(t, "run", "talk", "--image", "mgr/busybox:1", "--restart", "Never", "--", "sh", "-c", "echo one; echo two >&2; exec sleep 3600")
	c.Must(t, "wait", "pod/talk", "--for", "condition=Ready", "--timeout", "30s")
	// Standard output and error come by two pipes, whose order nobody keeps.
	both := func(o cluster.Output) error { return errors.Join(expect(o, "one\n"), expect(o, "two\n")) }
	cluster.Eventually(t, 10*time.Second, "logs", func(ctx context.Context) error { return both(c.Mgr(ctx, "logs", "talk")) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	out := c.Mgr(ctx, "logs", "-f", "talk")
	if out.Code = 0; both(out) != nil { // it was ended: it follows for ever
		t.Errorf("logs -f: %+v", out)
	}
	if out := c.Must(t, "exec", "talk", "--", "sh", "-c", "echo in; hostname"); out != "in\ntalk\n" {
		t.Errorf("exec: %q", out)
	}
	if out := c.Mgr(t.Context(), "exec", "talk", "--", "sh", "-c", "exit 7"); out.Code != 7 {
		t.Errorf("exec's exit code is %d, not 7: %s", out.Code, out.Stderr)
	}
	// -it as on a terminal: script(1) of util-linux provides one.
	tty := exec.CommandContext(t.Context(), "script", "-qec",
		cluster.Binary(t)+" exec -it talk -- sh -c 'test -t 0 && stty size && echo tty'", "/dev/null")
	tty.Env = append(os.Environ(), "MGRCONFIG="+c.Kubeconfig, "HOME="+filepath.Dir(c.Kubeconfig))
	if out := cluster.Run(tty); !strings.Contains(out.Stdout, "tty") {
		t.Errorf("exec -it has no terminal: %+v", out)
	}
	c.Must(t, "cp", "talk:/etc/hostname", filepath.Join(t.TempDir(), "hostname"))
	c.Must(t, "delete", "pod", "talk", "--grace-period", "1")
}

func members(t *testing.T, c *cluster.Cluster) {
	ms := readMembers(t, c)
	leaders := 0
	for _, m := range ms {
		if m.Role == "leader" {
			leaders++
		}
		if m.PID == 0 || m.Addr == "" || m.AppliedIndex == 0 {
			t.Errorf("member %+v lacks process, address or position", m)
		}
	}
	if len(ms) != 3 || leaders != 1 {
		t.Errorf("%d members, %d leaders: %+v", len(ms), leaders, ms)
	}
	if out := c.Must(t, "members"); strings.Count(out, "master-") != 3 || !strings.Contains(out, "survives the loss of 1") {
		t.Errorf("members:\n%s", out)
	}
}

type member struct {
	ID           string `json:"id"`
	Addr         string `json:"address"`
	Role         string `json:"role"`
	AppliedIndex uint64 `json:"appliedIndex"`
	PID          int    `json:"pid"`
	Reachable    bool   `json:"reachable"`
}

func readMembers(t testing.TB, c *cluster.Cluster) []member {
	t.Helper()
	var ms []member
	if err := json.Unmarshal([]byte(c.Must(t, "members", "-o", "json")), &ms); err != nil {
		t.Fatal(err)
	}
	return ms
}

func leader(t testing.TB, c *cluster.Cluster) member {
	t.Helper()
	for _, m := range readMembers(t, c) {
		if m.Role == "leader" {
			return m
		}
	}
	t.Fatal("no member leads")
	return member{}
}

func kill(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("kill -9 %d: %v", pid, err)
		}
	}
}

func imageImport(t *testing.T, c *cluster.Cluster) {
	out := c.Must(t, "image", "import", cluster.Images(t, "busybox"))
	if strings.Count(out, "mgr/busybox:1") != 2 {
		t.Errorf("image import: %s", out)
	}
	if list := c.Must(t, "image", "list"); strings.Count(list, "mgr/busybox:1") != 2 {
		t.Errorf("image list:\n%s", list)
	}
	if out := c.Mgr(t.Context(), "image", "import", "/nowhere.tar"); out.Code == 0 || !strings.Contains(out.Stderr, "/nowhere.tar") {
		t.Errorf("import of a missing file: %+v", out)
	}
}

func crashingContainer(t *testing.T, c *cluster.Cluster) {
	c.Must(t, "run", "crash", "--image", "mgr/busybox:1", "--", "sh", "-c", "exit 3")
	cluster.Eventually(t, time.Minute, "the crash is seen and backed off", func(ctx context.Context) error {
		p, err := c.Kube.CoreV1().Pods("default").Get(ctx, "crash", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(p.Status.ContainerStatuses) == 0 {
			return errors.New("no container status yet")
		}
		s := p.Status.ContainerStatuses[0]
		if s.RestartCount < 1 || s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" ||
			s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 3 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	if out := c.Must(t, "get", "pod", "crash"); !strings.Contains(out, "CrashLoopBackOff") {
		t.Errorf("get pod: %s", out)
	}
	c.Must(t, "run", "noimage", "--image", "mgr/none:1", "--image-pull-policy", "Never")
	cluster.Eventually(t, 30*time.Second, "a missing image is named", func(ctx context.Context) error {
		return expect(c.Mgr(ctx, "get", "pod", "noimage"), "ErrImageNeverPull")
	})
	c.Must(t, "delete", "pod", "crash", "noimage", "--grace-period", "1")
}

func why(t *testing.T, c *cluster.Cluster) {
	c.Must(t, "run", "greedy", "--image", "mgr/demo:1", "--overrides",
		`{"spec":{"containers":[{"name":"greedy","image":"mgr/demo:1","resources":{"requests":{"cpu":"64"}}}]}}`)
	cluster.Eventually(t, 20*time.Second, "mgr why", func(ctx context.Context) error {
		out := c.Mgr(ctx, "why", "pod/greedy")
		return errors.Join(expect(out, "node-1"), expect(out, "node-2"), expect(out, "cpu"))
	})
	cluster.Eventually(t, 20*time.Second, "event", func(ctx context.Context) error {
		return expect(c.Mgr(ctx, "describe", "pod", "greedy"), "0/2 nodes are available: 2 Insufficient cpu")
	})
	c.Must(t, "delete", "pod", "greedy")
}

// expect says whether a command succeeded and printed text.
func expect(o cluster.Output, text string) error {
	if o.Code != 0 || !strings.Contains(o.Stdout, text) {
		return fmt.Errorf("exit %d, wanted %q in: %s%s", o.Code, text, o.Stdout, o.Stderr)
	}
	return nil
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
