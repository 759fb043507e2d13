package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestLiveReadsGinkgo(t *testing.T) {
	names := []string{"[sig-cli] a works [Conformance]", "[sig-cli] a works twice [Conformance]", "[sig-cli] b works [Conformance]"}
	l := &live{progress: newProgress(names)}
	output := `Will run 3 of 3206 specs
------------------------------
[sig-cli] a works [Conformance] [sig-cli, Conformance]
  [FAILED] in something that is tried again
• [20.124 seconds]
------------------------------
[sig-cli] a works twice [Conformance] [sig-cli, Conformance]
• [FAILED] [0.496 seconds]
[sig-cli] a [It] works twice [Conformance] [sig-cli, Conformance]
/some/file.go:172

  [FAILED] it does not
------------------------------
[sig-cli] b works [Conformance] [sig-cli, Conformance]
`
	if _, err := io.Copy(struct{ io.Writer }{l}, iotest.OneByteReader(strings.NewReader(output))); err != nil {
		t.Fatal(err)
	}
	if r := l.seen[names[0]]; !r.Passed || r.Took != 20124*time.Millisecond {
		t.Errorf("%s: %+v", names[0], r)
	}
	if r, ran := l.seen[names[1]]; !ran || r.Passed {
		t.Errorf("%s: %+v, ran: %v", names[1], r, ran)
	}
	if r, ran := l.seen[names[2]]; ran {
		t.Errorf("%s has not ended: %+v", names[2], r)
	}
	if !l.crashed() || l.seen[names[2]].Passed || l.crashed() {
		t.Errorf("after a crash: %+v", l.seen)
	}
	delete(l.seen, names[2])
	text := report{names: names, results: l.seen, took: time.Minute}.text(true)
	for _, want := range []string{"1 passed, 1 failed, 1 not run, of 3 conformance tests, in 1m0s\n", "sig-cli  1       3\n",
		"\nFailed:\n  " + names[1] + "\n      [FAILED] it does not\n", "\nNot run:\n  " + names[2] + "\n", "\nPassed:\n  " + names[0] + ", 20.1s\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

func TestDeal(t *testing.T) {
	parts, alone := deal([]string{"a", "b [Serial]", "c", "d", "e [Disruptive] [Slow]"}, 2)
	if got := fmt.Sprint(parts, alone); got != "[[a d] [c]] [b [Serial] e [Disruptive] [Slow]]" {
		t.Error(got)
	}
	if parts, _ := deal([]string{"a"}, 4); len(parts) != 1 {
		t.Errorf("%d parts of one test", len(parts))
	}
}
