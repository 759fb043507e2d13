package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Main is a TestMain for packages whose tests share one cluster: it starts it, hands it to use, runs the tests, takes it down and
// returns the exit code.
func Main(m *testing.M, o Options, use func(testing.TB, *Cluster)) (code int) {
	t := &mainTB{}
	// Taking the cluster down may fail, too.
	defer func() {
		t.guard(t.cleanUp)
		if t.failed {
			code = 1
		}
	}()
	t.guard(func() {
		use(t, Start(t, o))
		if code = m.Run(); code != 0 {
			t.failed = true
		}
	})
	return code
}

// NameHere is a name for a cluster that no test of another checkout on this machine uses: prefix and the checkout's directory.
func NameHere(prefix string) string {
	name := prefix
	root, err := checkout()
	if err != nil {
		return name // Start says what is wrong
	}
	for _, r := range strings.ToLower(filepath.Base(root)) {
		if (r >= 'a' && r <= 'z' || r >= '0' && r <= '9') && len(name) < 12 {
			name += string(r)
		}
	}
	return name
}

// mainTB is what Start needs of a testing.TB, outside of any test.
type mainTB struct {
	testing.TB
	failed   bool
	cleanups []func()
}

type fatal struct{}

// guard runs f up to a Fatal.
func (t *mainTB) guard(f func()) {
	defer func() {
		if r := recover(); r != nil && r != (fatal{}) {
			panic(r)
		}
	}()
	f()
}

func (t *mainTB) cleanUp() {
	for _, f := range slices.Backward(t.cleanups) {
		t.guard(f)
	}
}

func (t *mainTB) Helper()                  {}
func (t *mainTB) Name() string             { return "TestMain" }
func (t *mainTB) Failed() bool             { return t.failed }
func (t *mainTB) Context() context.Context { return context.Background() }
func (t *mainTB) Cleanup(f func())         { t.cleanups = append(t.cleanups, f) }
func (t *mainTB) Log(args ...any)          { fmt.Fprintln(os.Stderr, args...) }
func (t *mainTB) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
func (t *mainTB) Errorf(format string, args ...any) { t.Logf(format, args...); t.failed = true }
func (t *mainTB) Error(args ...any)                 { t.Log(args...); t.failed = true }
func (t *mainTB) Fatalf(format string, args ...any) { t.Errorf(format, args...); panic(fatal{}) }
func (t *mainTB) Fatal(args ...any)                 { t.Error(args...); panic(fatal{}) }

func (t *mainTB) TempDir() string {
	dir, err := os.MkdirTemp("", "mgr-"+filepath.Base(os.Args[0]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
