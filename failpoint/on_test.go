//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestErrorAtTheNthHit(t *testing.T) {
	a := start("x.y.before=error:EIO@2,x.y.after=error:odd", "")
	for i, want := range []error{nil, syscall.EIO, nil} {
		if err := a.hit("x.y.before"); !errors.Is(err, want) {
			t.Errorf("hit %d: %v, want %v", i+1, err, want)
		}
		if err := a.hit("x.y.after"); err == nil || !strings.Contains(err.Error(), "odd") {
			t.Errorf("hit %d without @: %v", i+1, err)
		}
	}
}

func TestFileIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failpoints")
	a := start("", file)
	if err := a.hit("p"); err != nil {
		t.Error("an error out of nothing:", err)
	}
	if err := os.WriteFile(file, []byte("p=error:EIO\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); a.hit("p") == nil; {
		if time.Now().After(end) {
			t.Fatal("the file was not read")
		}
	}
	for suffix, want := range map[string]string{".seen": "p", ".fired": "p=error"} {
		if b, err := os.ReadFile(file + suffix); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %q, %v", suffix, b, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"p", "p=", "p=explode", "p=kill@0", "p=kill@x", "p=hang:soon", "=kill", "clock=often"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// The wall clock moves, time that passes does not.
func TestClock(t *testing.T) {
	before := time.Now()
	if _, err := parse("clock=2h"); err != nil {
		t.Fatal(err)
	}
	moved := time.Now()
	if _, err := parse("clock=0s"); err != nil {
		t.Fatal(err)
	}
	if wall := moved.Round(0).Sub(before.Round(0)); wall < 119*time.Minute || wall > 121*time.Minute {
		t.Errorf("the wall clock moved by %v", wall)
	}
	if passed := moved.Sub(before); passed < 0 || passed > time.Minute {
		t.Errorf("the monotonic clock moved by %v", passed)
	}
	if back := time.Since(before.Round(0)); back < 0 || back > time.Minute {
		t.Errorf("%v after it was set back", back)
	}
}
