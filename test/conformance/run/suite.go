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
	"syscall"
	"time"
)

// result of one test.
type result struct {
	Passed  bool
	Took    time.Duration
	Message string // why it failed
}

// runSuite runs e2e.test on the named tests, with a line of progress on a terminal. A test that takes the whole suite down with
// it has failed, and the others go on in another run. It returns what is known of each test.
func runSuite(ctx context.Context, o options, names []string) (map[string]result, error) {
	log, err := os.Create(filepath.Join(o.dir, "e2e.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	live := newLive(names)
	defer live.end()
	for {
		left := slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, ran := live.seen[name]; return ran })
		if len(left) == 0 || ctx.Err() != nil {
			return live.seen, nil
		}
		suiteErr := runTests(ctx, o, left, io.MultiWriter(log, live))
		results, err := readReport(reportFile(o))
		if err == nil { // the suite came to its end, and knows more than its output said
			maps.Copy(live.seen, results)
			return live.seen, nil
		}
		if ctx.Err() == nil && !live.crashed() {
			return nil, fmt.Errorf("the suite ran no test (%w), see %s", errors.Join(suiteErr, err), log.Name())
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
	cmd := exec.CommandContext(ctx, filepath.Join(o.dir, "e2e.test"), "--provider=skeleton", "--kubeconfig="+o.kubeconfig,
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

// live reads the suite's output as it comes, and shows in one line how far it is.
type live struct {
	names    []string
	terminal bool
	began    time.Time
	seen     map[string]result
	current  string // the test that runs
	failed   string // the test whose failure is being told
	line     []byte // not yet whole
}

func newLive(names []string) *live {
	info, err := os.Stderr.Stat()
	return &live{names: names, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0, began: time.Now(), seen: map[string]result{}}
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
		l.seen[l.current] = r
		l.show(r.Passed)
		l.current = ""
	case strings.HasPrefix(line, "-----"):
		l.failed = ""
	case l.failed != "" && strings.HasPrefix(line, "  "): // why, below the line that says that it failed
		r := l.seen[l.failed]
		r.Message += strings.TrimPrefix(line, "  ") + "\n"
		l.seen[l.failed] = r
	}
}

// crashed counts the test that was running as failed, when the suite has ended in the middle of it.
func (l *live) crashed() bool {
	if l.current == "" {
		return false
	}
	l.seen[l.current] = result{Message: "the suite crashed in it: see e2e.log"}
	l.show(false)
	l.current = ""
	return true
}

func (l *live) show(passed bool) {
	failed := 0
	for _, r := range l.seen {
		if !r.Passed {
			failed++
		}
	}
	if l.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	if !passed {
		fmt.Fprintln(os.Stderr, "failed:", l.current)
	} else if !l.terminal {
		fmt.Fprintln(os.Stderr, "passed:", l.current)
	}
	if l.terminal {
		fmt.Fprintf(os.Stderr, "%d passed, %d failed of %d, %s", len(l.seen)-failed, failed, len(l.names), time.Since(l.began).Round(time.Second))
	}
}

func (l *live) end() {
	if l.terminal {
		fmt.Fprintln(os.Stderr)
	}
}
