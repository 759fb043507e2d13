package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/ptr"

	"mgr/agent"
	"mgr/agent/containerd"
	"mgr/agent/daemon"
	"mgr/agent/embedded"
	"mgr/agent/evict"
	"mgr/api/apitest"
)

// TestMain makes the test binary its own containerd, as the mgr binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == daemon.Subcommand {
		if err := daemon.Main(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// realNode is an agent on a containerd of its own, with an API server in the same process.
type realNode struct {
	t      *testing.T
	dir    string
	log    *slog.Logger
	client kubernetes.Interface
	daemon *daemon.Daemon
	net    *pairs
	agent  *agent.Agent
	stop   func()
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "agent-test-")
	if err != nil {
		t.Fatal(err)
	}
	n := &realNode{t: t, dir: dir, log: slog.New(slog.NewTextHandler(t.Output(), nil)), net: &pairs{}}
	t.Cleanup(n.cleanup)
	if n.daemon, err = daemon.Ensure(t.Context(), daemon.Config{Dir: dir, Log: n.log}); err != nil {
		t.Fatal(err)
	}
	n.client = apitest.New(t).Client
	for _, ns := range []string{"default", v1.NamespaceNodeLease} {
		_, err := n.client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	n.start()
	return n
}

// start begins an agent on the node, as a new process would.
func (n *realNode) start() {
	n.t.Helper()
	r, err := containerd.Open(n.t.Context(), containerd.Config{Dir: n.dir, Address: n.daemon.Address(), Shim: n.daemon.Shim(), Runc: n.daemon.Runc(), Log: n.log})
	if err != nil {
		n.t.Fatal(err)
	}
	demo, err := embedded.DemoImage()
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := r.Import(n.t.Context(), bytes.NewReader(demo)); err != nil {
		n.t.Fatal(err)
	}
	n.agent, err = agent.New(agent.Config{
		Eviction: evict.Config{Hard: map[string]string{}}, // however full the disk of this machine is
		NodeName: "n1", Dir: n.dir, Client: n.client, Runtime: r, Network: n.net, NodeIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		CgroupRoot: "agent-test", Log: n.log,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.agent.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
		if err := r.Close(); err != nil {
			n.t.Error(err)
		}
	})
}

func (n *realNode) cleanup() {
	if n.agent != nil {
		n.deleteAll()
		n.stop()
	}
	if n.daemon != nil {
		if err := n.daemon.Stop(); err != nil {
			n.t.Error(err)
		}
	}
	if err := containerd.Cleanup(context.Background(), n.dir); err != nil {
		n.t.Error(err)
	}
	n.net.removeAll()
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Error(err)
	}
}

func (n *realNode) deleteAll() {
	ctx := context.Background()
	pods := n.client.CoreV1().Pods("default")
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}, metav1.ListOptions{}); err != nil {
		n.t.Error(err)
	}
	n.until("all pods are gone", func() bool {
		list, err := pods.List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	})
}

func (n *realNode) until(what string, ok func() bool, state ...func() any) {
	n.t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			for _, s := range state {
				n.t.Logf("%+v", s())
			}
			n.t.Fatalf("did not happen: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (n *realNode) pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	n.t.Helper()
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: v1.PodSpec{NodeName: "n1", TerminationGracePeriodSeconds: ptr.To[int64](2),
			Containers: []v1.Container{{Name: "main", Image: "mgr/demo:1", Command: []string{"/bin/sleep", "infinity"}}}},
	}
	for _, f := range change {
		f(p)
	}
	got, err := n.client.CoreV1().Pods("default").Create(n.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

func (n *realNode) wait(name, what string, fits func(*v1.Pod) bool) *v1.Pod {
	n.t.Helper()
	var pod *v1.Pod
	n.until(what, func() bool {
		got, err := n.client.CoreV1().Pods("default").Get(n.t.Context(), name, metav1.GetOptions{})
		pod = got
		return err == nil && fits(got)
	}, func() any { return pod.Status.ContainerStatuses })
	return pod
}

func podReady(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// pairs is a pod network of one veth pair for each pod, for this machine alone.
type pairs struct {
	mu  sync.Mutex
	ips map[string]byte
}

func (p *pairs) Setup(_ context.Context, pod agent.PodNetwork) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ips == nil {
		p.ips = map[string]byte{}
	}
	number, known := p.ips[pod.UID]
	if !known {
		number = 1
		for slices.Contains(values(p.ips), number) {
			number++
		}
	}
	inside := netip.AddrFrom4([4]byte{198, 18, number, 2})
	if known {
		return []netip.Addr{inside}, nil
	}
	if err := pair(fmt.Sprintf("agttest%d", number), pod.NetNS, netip.AddrFrom4([4]byte{198, 18, number, 1}), inside); err != nil {
		return nil, err
	}
	p.ips[pod.UID] = number
	return []netip.Addr{inside}, nil
}

func values(m map[string]byte) []byte {
	var out []byte
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func pair(name, path string, outside, inside netip.Addr) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	if err := addr(&netlink.Handle{}, name, outside); err != nil {
		return err
	}
	there, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer there.Close()
	lo, err := there.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := there.LinkSetUp(lo); err != nil {
		return err
	}
	return addr(there, "eth0", inside)
}

func addr(h *netlink.Handle, name string, ip netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(ip.String() + "/30")
	if err != nil {
		return err
	}
	if err := h.AddrAdd(link, a); err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

func (p *pairs) Teardown(_ context.Context, uid string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	number, ok := p.ips[uid]
	if !ok {
		return nil
	}
	delete(p.ips, uid)
	if link, err := netlink.LinkByName(fmt.Sprintf("agttest%d", number)); err == nil {
		return netlink.LinkDel(link)
	}
	return nil
}

func (p *pairs) Pods(context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for uid := range p.ips {
		out = append(out, uid)
	}
	return out, nil
}

func (p *pairs) removeAll() {
	for _, uid := range func() []string { u, _ := p.Pods(context.Background()); return u }() {
		_ = p.Teardown(context.Background(), uid)
	}
}

func TestRealPod(t *testing.T) {
	n := newRealNode(t)
	n.pod("web", func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Command = nil
		c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
	})
	pod := n.wait("web", "web is ready", podReady)
	url := "http://" + pod.Status.PodIP + ":8080/"
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	master := httptest.NewServer(n.agent.Handler())
	defer master.Close()
	if out := get(t, master.URL+"/podProxy/"+pod.Status.PodIP+":8080/"); out == "" {
		t.Error("no answer through the pod proxy")
	}
	n.until("the log has the request", func() bool { return get(t, master.URL+"/containerLogs/default/web/main") != "" })

	id := pod.Status.ContainerStatuses[0].ContainerID
	n.stop()
	n.start()
	master.Config.Handler = n.agent.Handler()
	n.until("the new agent serves the pod", func() bool {
		resp, err := http.Get(master.URL + "/containerLogs/default/web/main")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	if again := n.wait("web", "web is still ready", podReady); again.Status.ContainerStatuses[0].ContainerID != id {
		t.Errorf("the container was replaced: %s, %s", id, again.Status.ContainerStatuses[0].ContainerID)
	}
	var out, errs bytes.Buffer
	code, err := n.exec(master.URL, "web", strings.NewReader("through"), &out, &errs, "/bin/cat")
	if err != nil || code != 0 || out.String() != "through" {
		t.Errorf("exec cat: code %d, %v, %q %q", code, err, out.String(), errs.String())
	}
	code, err = n.exec(master.URL, "web", nil, &out, &errs, "/bin/crash", "7")
	if code != 7 || err != nil {
		t.Errorf("exec crash: code %d, %v", code, err)
	}
	if _, err := n.exec(master.URL, "web", nil, &out, &errs, "/bin/crash", "7"); err != nil {
		t.Error(err)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Logf("%s: %s %s", url, resp.Status, b)
		return ""
	}
	return string(b)
}

// exec speaks SPDY to the agent, as a master does.
func (n *realNode) exec(base, pod string, in io.Reader, out, errs io.Writer, command ...string) (int, error) {
	u := base + "/exec/default/" + pod + "/main?output=1&error=1"
	if in != nil {
		u += "&input=1"
	}
	for _, c := range command {
		u += "&command=" + c
	}
	target, err := http.NewRequest(http.MethodPost, u, nil)
	if err != nil {
		return 0, err
	}
	e, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: base}, http.MethodPost, target.URL)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: errs})
	if code, ok := err.(interface{ ExitStatus() int }); ok {
		return code.ExitStatus(), nil
	}
	return 0, err
}

func TestRealStartTimes(t *testing.T) {
	n := newRealNode(t)
	var took []time.Duration
	for i := range 12 {
		name := fmt.Sprintf("p%d", i)
		w, err := n.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		n.pod(name)
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*v1.Pod); ok && p.Status.Phase == v1.PodRunning {
				break
			}
		}
		took = append(took, time.Since(begun))
		w.Stop()
	}
	slices.Sort(took)
	t.Logf("created → running: p50 %v, max %v", took[len(took)/2], took[len(took)-1])
}
