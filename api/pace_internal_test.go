package api

import (
	"testing"
	"time"
)

// TestPace: batches fall on the same instants for all, are larger while timers are late, and become small again.
func TestPace(t *testing.T) {
	p := pace{least: 20 * time.Millisecond}
	now := time.Unix(1000, 0).Add(3 * time.Millisecond)
	for i, step := range []struct{ late, wait time.Duration }{
		{0, 17}, {0, 20}, {9, 11}, // as planned, and a little late
		{15, 45}, {30, 90}, {70, 90}, // to multiples of 40 and 80 that are not too near
		{0, 40}, {0, 20}, {1, 19},
	} {
		now = now.Add(step.late * time.Millisecond)
		wait := p.next(now)
		if want := step.wait * time.Millisecond; wait != want {
			t.Fatalf("step %d at %v: wait %v, want %v", i, now.Sub(time.Unix(1000, 0)), wait, want)
		}
		now = now.Add(wait)
	}
}
