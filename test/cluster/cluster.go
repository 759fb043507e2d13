// Package cluster gives tests a whole cluster, started exactly as a user does: the built binary's `mgr up`, real processes in
// network namespaces, real containers. Start leaves nothing behind: a test fails when `mgr down` forgot something.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"mgr/cmd/local"
)

// Options of a cluster; zero values are those of `mgr up`.
type Options struct {
	Name    string // also the directory's; give each test of a package its own
	Masters int    // default 3
	Nodes   int    // default 2; -1: none
	Subnet  string // default 10.99.<by the name>.0/24
	Demo    bool
	Args    []string // more arguments of `mgr up`
	Binary  string   // another build of mgr; default: Binary
	Env     []string // NAME=value, for all of the cluster's processes
}

// Cluster is a running local cluster.
type Cluster struct {
	Name       string
	Dir        string
	Kubeconfig string
	Hosts      *local.Client
	Config     *rest.Config
	Kube       kubernetes.Interface
	Up         string // what `mgr up` printed

	bin    string
	env    []string
	dumped sync.Once
}

// Binary is the built mgr: $MGR, or bin/mgr of this checkout.
func Binary(t testing.TB) string { t.Helper(); return built(t, "MGR", "mgr", "make build") }

// Failpoints is the mgr that was built with failpoints: $MGR_WITH_FAILPOINTS, or bin/mgr-failpoints of this checkout.
func Failpoints(t testing.TB) string {
	t.Helper()
	return built(t, "MGR_WITH_FAILPOINTS", "mgr-failpoints", "make bin/mgr-failpoints")
}

// Previous is the version of mgr before this one: $MGR_PREVIOUS, or bin/mgr-previous of this checkout, if there is one.
func Previous(t testing.TB) (bin string, ok bool) {
	t.Helper()
	bin = where(t, "MGR_PREVIOUS", "mgr-previous")
	_, err := os.Stat(bin)
	return bin, err == nil
}

func where(t testing.TB, env, name string) string {
	t.Helper()
	if bin := os.Getenv(env); bin != "" {
		return bin
	}
	root, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "bin", name)
}

// checkout is the directory of the module that is being tested.
func checkout() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	return strings.TrimSpace(string(root)), nil
}

func built(t testing.TB, env, name, how string) string {
	t.Helper()
	bin := where(t, env, name)
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("these tests drive the built binary: run `%s` first (%v)", how, err)
	}
	return bin
}

// Start brings a cluster up and takes it down, with a look for leftovers, when the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{bin: o.Binary, env: o.Env, Name: o.Name, Dir: filepath.Join("/var/lib/mgr", "test-"+o.Name)}
	if c.bin == "" {
		c.bin = Binary(t)
	}
	c.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	// A run that was killed may have left its cluster.
	if _, err := local.Load(c.Dir); err == nil {
		c.must(t, "down", "--dir", c.Dir)
	}
	o.Subnet = o.subnet(t)
	before := footprint(t, o, c.Dir)
	args := []string{"up", "--name", o.Name, "--dir", c.Dir, "--subnet", o.Subnet}
	if o.Masters != 0 {
		args = append(args, "--masters", fmt.Sprint(o.Masters))
	}
	if o.Nodes != 0 {
		args = append(args, "--nodes", fmt.Sprint(max(o.Nodes, 0)))
	}
	if !o.Demo {
		args = append(args, "--no-demo")
	}
	running.Store(c, root(t))
	t.Cleanup(func() { c.stop(t, o, before) })
	c.Up = c.must(t, append(args, o.Args...)...)
	c.Hosts = local.NewClient(c.Dir)
	var err error
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	c.Config.QPS, c.Config.Burst = -1, -1
	if c.Kube, err = kubernetes.NewForConfig(c.Config); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *Cluster) stop(t testing.TB, o Options, before map[string][]string) {
	running.Delete(c)
	if t.Failed() {
		c.dump(t)
	}
	c.must(t, "down", "--dir", c.Dir)
	for what, left := range diff(before, footprint(t, o, c.Dir)) {
		t.Errorf("mgr down left %s behind: %s", what, strings.Join(left, "; "))
	}
}

// subnets that tests of this process have; they may run beside each other.
var subnets sync.Map

// subnet that was asked for, or one that neither this process nor anything else on this machine has: what a killed run left, for example.
func (o Options) subnet(t testing.TB) string {
	t.Helper()
	if o.Subnet != "" {
		return o.Subnet
	}
	used, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, b := range []byte(o.Name) {
		sum = (sum*31 + int(b)) % 200
	}
	for range 200 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(20 + sum), 0}), 24)
		taken := slices.ContainsFunc(used, func(a net.Addr) bool {
			prefix, err := netip.ParsePrefix(a.String())
			return err == nil && prefix.Overlaps(subnet)
		})
		if !taken {
			if owner, _ := subnets.LoadOrStore(subnet, o.Name); owner == o.Name {
				return subnet.String()
			}
		}
		sum = (sum + 1) % 200
	}
	t.Fatal("every subnet of 10.99.20.0/24 to 10.99.219.0/24 is in use on this machine")
	return ""
}

// Output of a command.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// Mgr runs `mgr args…` against the cluster, as a user without any configuration but its kubeconfig.
func (c *Cluster) Mgr(ctx context.Context, args ...string) Output {
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(append(os.Environ(), c.env...), "MGRCONFIG="+c.Kubeconfig, "HOME="+filepath.Dir(c.Kubeconfig))
	if len(args) > 0 && (args[0] == "up" || args[0] == "down") {
		cmd.Args = append(cmd.Args, "--kubeconfig", c.Kubeconfig)
	}
	return Run(cmd)
}

// Run runs a command and keeps what it printed.
func Run(cmd *exec.Cmd) Output {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	o := Output{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		o.Stderr += err.Error()
	}
	return o
}

// must runs mgr and fails the test when it does.
func (c *Cluster) must(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	o := c.Mgr(ctx, args...)
	if o.Code != 0 {
		t.Fatalf("mgr %s: exit %d\n%s%s", strings.Join(args, " "), o.Code, o.Stdout, o.Stderr)
	}
	return o.Stdout
}

// Must runs mgr and returns what it printed; the test fails when mgr does.
func (c *Cluster) Must(t testing.TB, args ...string) string { t.Helper(); return c.must(t, args...) }

// Made takes the answer to a creation, by name, that is tried until it succeeds: if the object is there already, an earlier try made it
// and its answer was lost.
func Made(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Eventually waits up to limit for check to stop returning an error.
func Eventually(t testing.TB, limit time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err // what the deadline itself breaks says nothing
		}
		select {
		case <-ctx.Done():
			dumpAll(t)
			t.Fatalf("%s: not within %s: %v", what, limit, errors.Join(last, ctx.Err()))
		case <-tick.C:
		}
	}
}
