package boot

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// TestLeaderWithoutDutiesHandsOn (hashicorp/raft#413 and its like): a leader whose controllers do not start does not keep the place; one
// that nobody relieves tries again; one whose duties have started, or that leads no more, is left alone.
func TestLeaderWithoutDutiesHandsOn(t *testing.T) {
	for name, c := range map[string]struct {
		startsAfter, leadsFor time.Duration
		want                  int
	}{
		"starts":            {time.Second, time.Hour, 0},
		"does not start":    {time.Hour, 3*startPatience + time.Second, 3},
		"leads for a while": {time.Hour, time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.leadsFor)
				defer cancel()
				started := make(chan struct{})
				begin := time.AfterFunc(c.startsAfter, func() { close(started) })
				defer begin.Stop()
				tries := 0
				handOnUnstarted(ctx, started, func(context.Context) error {
					tries++
					return errors.New("nobody there")
				}, slog.New(slog.DiscardHandler))
				if tries != c.want {
					t.Errorf("it was handed on %d times, want %d", tries, c.want)
				}
			})
		})
	}
}
