package containerd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate{places: make(chan struct{}, 2), patience: 2 * time.Second}
		enter := func() func() {
			t.Helper()
			leave, err := g.enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		first, second := enter(), enter()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third entered: %v", err)
		}
		began := time.Now()
		third := enter() // in the place of one that takes too long
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("the third entered after %v more, not when the first two had had their two seconds", waited)
		}
		first()
		second()
		third()
		third()
		if n := len(g.places); n != 0 {
			t.Errorf("%d places are taken when all have left", n)
		}
	})
}
