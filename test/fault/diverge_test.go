package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// TestDivergedMaster changes one object in the state of one master, under load, as a fault of its memory or of the program would: first
// of a follower, then of the leader. That master must find out, refuse even reads that ask for no consistency, and come back from the
// others; and what clients saw can be explained.
func TestDivergedMaster(t *testing.T) {
	w := Beside(t, withPoints(t, "diverged"))
	l := w.StartLoad(t, 3, 16)
	l.Await(t, 200)
	for _, leads := range []bool{false, true} {
		lead, members := w.Whole(t)
		victim := lead.ID
		for _, m := range members {
			if !leads && m.ID != lead.ID {
				victim = m.ID
			}
		}
		told, pid, began := len(w.Log(t, victim)), w.PID(t, victim), time.Now()
		w.arm(t, victim, "state.tamper=error:EIO@1")
		cluster.Eventually(t, 30*time.Second, "it refuses reads", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err := w.At(victim).CoreV1().ConfigMaps(Namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0", Limit: 1})
			if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "differs from that of a majority") {
				return fmt.Errorf("a list at it gives %v", err)
			}
			return nil
		})
		found := time.Since(began)
		w.disarm(t, victim)
		l.Await(t, 50)
		cluster.Eventually(t, 30*time.Second, "it stops", func(context.Context) error {
			if w.PID(t, victim) == pid {
				return errors.New("it still runs")
			}
			return nil
		})
		w.Revive(t, victim, pid)
		w.Whole(t)
		log := w.Log(t, victim)[told:]
		if !strings.Contains(log, "this master is quarantined") || !strings.Contains(log, "moved aside") {
			t.Errorf("%s was not installed anew", victim)
		}
		t.Logf("%s (leader: %v) refused reads after %v and was back after %v", victim, leads, found.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		l.Await(t, 50)
	}
	t.Logf("%s", l.Finish(t))
}
