package fault

import (
	"testing"
	"time"

	"mgr/test/load"
)

// TestClockJumps moves the wall clock of masters, one by one and all to different times, by an hour forth and back, under load.
// Nothing in the quorum depends on it: the leader stays, writes and reads go on, watches have no gap. New TLS connections
// are made meanwhile; their certificates are good from an hour before they were made.
func TestClockJumps(t *testing.T) {
	w := Beside(t, withPoints(t, "clock"))
	l := w.StartLoad(t, 4, 16)
	lead := w.agree(t)
	for _, clocks := range [][]string{
		{"1h", "0s", "0s"}, {"0s", "-1h", "0s"}, {"0s", "0s", "1h"}, {"1h", "-1h", "30m"}, {"-1h", "-1h", "-1h"}, {"0s", "0s", "0s"},
	} {
		for i, id := range w.IDs {
			w.arm(t, id, "clock="+clocks[i])
		}
		l.Await(t, 200)
		fresh := w.fresh(t) // connections that begin now
		for i, at := range fresh {
			if lost, err := l.Acks.Lost(t.Context(), at); err != nil || len(lost) > 0 {
				t.Errorf("clocks %v: a new client of %s: %v %v", clocks, w.IDs[i], lost, err)
			}
		}
		if now := w.agree(t); now.ID != lead.ID || now.Term != lead.Term {
			t.Errorf("clocks %v: %s led term %d, now %s leads %d", clocks, lead.ID, lead.Term, now.ID, now.Term)
			lead = now
		}
	}
	gap := l.Acks.Gap()
	t.Logf("6 settings of the clocks, -1 h to +1 h: no election, longest time without a write %s; %s", gap.Round(time.Millisecond), l.Finish(t))
	if gap > load.Patience {
		t.Errorf("%s without a write", gap)
	}
}
