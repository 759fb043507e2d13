package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// result of one test.
type result struct {
	Passed  bool
	Took    time.Duration
	Message string // why it failed
}

// runSuite runs e2e.test on the named tests, with a line of progress on a terminal, and returns what is known of each test. The
// tests are dealt out to several processes that use the cluster at the same time, as Kubernetes' own runs do; those that say that
// they must be alone are run after all others.
func runSuite(ctx context.Context, o options, names []string) (map[string]result, error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	p := newProgress(names)
	defer p.end()
	parts, alone := deal(names, max(o.jobs, 1))
	var running errgroup.Group
	for i, names := range parts {
		running.Go(func() error { return runPart(ctx, o, p, strconv.Itoa(i+1), names) })
	}
	err := running.Wait()
	if err == nil && len(alone) > 0 {
		err = runPart(ctx, o, p, "alone", alone)
	}
	return p.seen, err
}

// deal makes up to n parts of the tests that stand others beside them.
func deal(names []string, n int) (parts [][]string, alone []string) {
	parts = make([][]string, n)
	i := 0
	for _, name := range names {
		if strings.Contains(name, "[Serial]") || strings.Contains(name, "[Disruptive]") {
			alone = append(alone, name)
			continue
		}
		parts[i%n] = append(parts[i%n], name)
		i++
	}
	return slices.DeleteFunc(parts, func(part []string) bool { return len(part) == 0 }), alone
}

// runPart runs some tests in one process, one after the other. A test that takes the whole suite down with it has failed, and the
// others go on in another run.
func runPart(ctx context.Context, o options, p *progress, part string, names []string) error {
	o.dir = filepath.Join(o.dir, "part-"+part)
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(o.dir, "e2e.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	live := &live{progress: p}
	for {
		left := slices.DeleteFunc(slices.Clone(names), p.ran)
		if len(left) == 0 || ctx.Err() != nil {
			return nil
		}
		suiteErr := runTests(ctx, o, left, io.MultiWriter(log, live))
		results, err := readReport(reportFile(o))
		if err == nil { // the suite came to its end, and knows more than its output said
			p.learn(results)
			return nil
		}
		if ctx.Err() == nil && !live.crashed() {
			return fmt.Errorf("the suite ran no test (%w), see %s", errors.Join(suiteErr, err), log.Name())
		}
	}
}

func reportFile(o options) string { return filepath.Join(o.dir, "report.json") }

// runTests runs the suite once.
func runTests(ctx context.Context, o options, names []string, output io.Writer) error {
	if err := os.Remove(reportFile(o)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var patterns []string
	for _, name := range names {
		patterns = append(patterns, regexp.QuoteMeta(name))
	}
	kubectl, err := filepath.Abs("bin/kubectl")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, o.suite, "--provider=skeleton", "--kubeconfig="+o.kubeconfig,
		"--kubectl-path="+kubectl, "--num-nodes=2", "--allowed-not-ready-nodes=0", "--report-dir="+o.dir, "--ginkgo.label-filter=Conformance",
		"--ginkgo.focus=("+strings.Join(patterns, "|")+")$", "--ginkgo.no-color", "--ginkgo.v", "--ginkgo.timeout="+o.timeout.String(),
		"--ginkgo.json-report="+reportFile(o))
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.dir, output, output
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) } // the suite then cleans up and reports
	cmd.WaitDelay = 2 * time.Minute
	return cmd.Run()
}

// specReport is what is needed of one spec in Ginkgo's JSON report.
type specReport struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

func readReport(path string) (map[string]result, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []specReport }
	if err := json.Unmarshal(text, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	results := map[string]result{}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			if s.State == "skipped" || s.State == "pending" {
				continue
			}
			name := strings.TrimSpace(strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "))
			r := result{Passed: s.State == "passed", Took: s.RunTime}
			if !r.Passed {
				r.Message = fmt.Sprintf("%s:%d: %s", filepath.Base(s.Failure.Location.FileName), s.Failure.Location.LineNumber, s.Failure.Message)
			}
			results[name] = r
		}
	}
	return results, nil
}

// progress is what is known of the tests so far; it shows in one line how far the run is.
type progress struct {
	names    []string
	terminal bool
	began    time.Time

	mu   sync.Mutex
	seen map[string]result
}

func newProgress(names []string) *progress {
	info, err := os.Stderr.Stat()
	return &progress{names: names, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0, began: time.Now(), seen: map[string]result{}}
}

func (p *progress) ran(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ran := p.seen[name]
	return ran
}

func (p *progress) learn(results map[string]result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.Copy(p.seen, results)
}

// live reads a suite's output as it comes.
type live struct {
	*progress
	current string // the test that runs
	failed  string // the test whose failure is being told
	line    []byte // not yet whole
}

// Write implements io.Writer; it keeps no more than a line.
func (l *live) Write(p []byte) (int, error) {
	n := len(p)
	for {
		head, rest, whole := bytes.Cut(p, []byte("\n"))
		l.line = append(l.line, head...)
		if !whole {
			return n, nil
		}
		l.read(string(l.line))
		l.line, p = l.line[:0], rest
	}
}

// passedLine is how Ginkgo ends a test that passed; other ends have a word in front of the time.
var passedLine = regexp.MustCompile(`^• \[([0-9.]+) seconds\]$`)

func (l *live) read(line string) {
	switch {
	case strings.HasPrefix(line, "[sig-") && l.current == "" && l.failed == "": // a test begins; its labels follow its name
		for _, name := range l.names {
			if strings.HasPrefix(line, name+" ") {
				l.current = name
			}
		}
	case strings.HasPrefix(line, "• ") && l.current != "":
		r := result{}
		if m := passedLine.FindStringSubmatch(line); m != nil {
			seconds, _ := strconv.ParseFloat(m[1], 64) // digits, by the expression
			r = result{Passed: true, Took: time.Duration(seconds * float64(time.Second))}
		} else {
			l.failed = l.current
		}
		l.ended(l.current, r)
		l.current = ""
	case strings.HasPrefix(line, "-----"):
		l.failed = ""
	case l.failed != "" && strings.HasPrefix(line, "  "): // why, below the line that says that it failed
		l.because(l.failed, strings.TrimPrefix(line, "  "))
	}
}

// crashed counts the test that was running as failed, when the suite has ended in the middle of it.
func (l *live) crashed() bool {
	if l.current == "" {
		return false
	}
	l.ended(l.current, result{Message: "the suite crashed in it: see e2e.log"})
	l.current = ""
	return true
}

// ended notes a test's result, and shows it.
func (p *progress) ended(name string, r result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[name] = r
	failed := 0
	for _, r := range p.seen {
		if !r.Passed {
			failed++
		}
	}
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	if !r.Passed {
		fmt.Fprintln(os.Stderr, "failed:", name)
	} else if !p.terminal {
		fmt.Fprintln(os.Stderr, "passed:", name)
	}
	if p.terminal {
		fmt.Fprintf(os.Stderr, "%d passed, %d failed of %d, %s", len(p.seen)-failed, failed, len(p.names), time.Since(p.began).Round(time.Second))
	}
}

// because adds a line to why a test failed.
func (p *progress) because(name, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.seen[name]
	r.Message += line + "\n"
	p.seen[name] = r
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprintln(os.Stderr)
	}
}
