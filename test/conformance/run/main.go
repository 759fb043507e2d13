// Command run starts a cluster of this machine's own, runs Kubernetes' conformance tests against it, and takes it down again:
//
//	run [-focus REGEX] [-skip REGEX] [-set api|all] [-jobs N] [-kubeconfig FILE]
//
// It is run from the root of the repository, by `make conformance`, which builds what it needs into bin/conformance. There it
// leaves report.txt, and in part-N the whole output of each process of the suite (e2e.log) and what it reports itself. It exits with 1 unless every
// selected test passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// errNotAll: the report, already printed, says which.
var errNotAll = errors.New("not every test passed")

type options struct {
	dir        string // what was built, and where reports go
	set        string
	focus      string
	skip       string
	kubeconfig string // of a cluster that runs already; "": start one
	timeout    time.Duration
	jobs       int
	name       string // of the cluster that is started
	subnet     string
	suite      string // e2e.test
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.dir, "dir", "bin/conformance", "where e2e.test and images.tar.gz are, and reports go")
	flag.StringVar(&o.set, "set", "api", "tests to run when there is no -focus: those named in test/conformance/testdata/SET.txt")
	flag.StringVar(&o.focus, "focus", "", "run the conformance tests whose names match")
	flag.StringVar(&o.skip, "skip", "", "but not those whose names match")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "use this cluster, which has the images, instead of starting one")
	flag.DurationVar(&o.timeout, "timeout", 4*time.Hour, "give up after")
	flag.IntVar(&o.jobs, "jobs", 4, "tests to run at the same time; those marked [Serial] or [Disruptive] run alone in any case")
	flag.StringVar(&o.name, "name", "conf", "name of the cluster to start, so that several can run on one machine")
	flag.StringVar(&o.subnet, "subnet", "10.99.27.0/24", "of the cluster to start")
	flag.Parse()
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	o.dir, o.suite = dir, filepath.Join(dir, "e2e.test")
	names, err := choose(o)
	if err != nil {
		return err
	}
	began := time.Now()
	if o.kubeconfig == "" {
		c, err := startCluster(ctx, o)
		if err != nil {
			return err
		}
		defer c.stop()
		o.kubeconfig = c.kubeconfig
	}
	results, err := runSuite(ctx, o, names)
	if err != nil {
		return err
	}
	report := report{names: names, results: results, took: time.Since(began)}
	if err := os.WriteFile(filepath.Join(o.dir, "report.txt"), []byte(report.text(true)), 0o644); err != nil {
		return err
	}
	fmt.Print(report.text(false))
	fmt.Printf("\nDetails are in %s/report.txt and part-*/e2e.log.\n", o.dir)
	if report.passed() < len(names) {
		return errNotAll
	}
	return nil
}

// choose returns the names of the tests to run.
func choose(o options) ([]string, error) {
	file := o.set
	if o.focus != "" {
		file = "all"
	}
	text, err := os.ReadFile(filepath.Join("test/conformance/testdata", file+".txt"))
	if err != nil {
		return nil, fmt.Errorf("read the names of the tests: %w", err)
	}
	focus, err := regexp.Compile(o.focus)
	if err != nil {
		return nil, fmt.Errorf("-focus: %w", err)
	}
	skip, err := regexp.Compile(o.skip)
	if err != nil {
		return nil, fmt.Errorf("-skip: %w", err)
	}
	var names []string
	for _, name := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if focus.MatchString(name) && (o.skip == "" || !skip.MatchString(name)) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no conformance test matches -focus %q without -skip %q", o.focus, o.skip)
	}
	return names, nil
}

// cluster is one that this program started.
type cluster struct {
	home, kubeconfig string
	stopRegistry     func()
}

// startCluster brings up three masters and two nodes, and the images of the tests on the nodes and
// in a registry. The nodes may be silent for as long
// as Kubernetes' own: all five hosts share this machine, and a test that starts a hundred pods at once keeps it busy for longer
// than the four seconds after which mgr by default moves pods away.
func startCluster(ctx context.Context, o options) (*cluster, error) {
	registries, stop, err := serveRegistry(o)
	if err != nil {
		return nil, fmt.Errorf("serve the images: %w", err)
	}
	c := &cluster{home: "/var/lib/mgr/" + o.name, kubeconfig: filepath.Join(o.dir, "kubeconfig"), stopRegistry: stop}
	err = c.mgr(ctx, "up", "--masters", "3", "--nodes", "2", "--no-demo", "--name", o.name, "--dir", c.home,
		"--subnet", o.subnet, "--node-grace", "40s", "--default-toleration", "300s", "--agent-arg=--registry-config-dir="+registries,
		"--kubeconfig", c.kubeconfig)
	if err == nil {
		err = c.mgr(ctx, "image", "import", filepath.Join(o.dir, "images.tar.gz"))
	}
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("start the cluster: %w", err)
	}
	return c, nil
}

func (c *cluster) stop() {
	if err := c.mgr(context.Background(), "down", "--dir", c.home, "--kubeconfig", c.kubeconfig); err != nil {
		fmt.Fprintln(os.Stderr, "conformance: take the cluster down:", err)
	}
	c.stopRegistry()
}

func (c *cluster) mgr(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "bin/mgr", args...)
	cmd.Env = append(os.Environ(), "MGRCONFIG="+c.kubeconfig)
	cmd.Stderr = os.Stderr
	if out, err := cmd.Output(); err != nil {
		return fmt.Errorf("mgr %s: %w\n%s", args[0], err, out)
	}
	return nil
}
