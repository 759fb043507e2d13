package agent

import (
	"errors"
	"testing"
	"time"

	"mgr/agent/machine"
)

func TestMeterRate(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	type ask struct {
		at     float64
		value  uint64
		want   uint64
		window float64 // 0: not known
	}
	for name, c := range map[string]struct {
		since time.Time
		asks  []ask
	}{
		"a second reading makes a rate":            {asks: []ask{{0, 100, 0, 0}, {1, 110, 10, 1}}},
		"what is too close says nothing":           {asks: []ask{{0, 100, 0, 0}, {.5, 110, 0, 0}, {2, 120, 10, 2}}},
		"a new number is known from its start":     {since: at(-2), asks: []ask{{0, 40, 20, 2}}},
		"the start of long ago says nothing":       {since: at(-100), asks: []ask{{0, 40, 0, 0}, {1, 41, 1, 1}}},
		"regular questions: fifteen seconds":       {asks: []ask{{0, 0, 0, 0}, {10, 100, 10, 10}, {20, 300, 15, 20}, {30, 400, 15, 20}, {40, 500, 10, 20}}},
		"many questions do not shorten the window": {asks: []ask{{0, 0, 0, 0}, {5, 5, 1, 5}, {10, 10, 1, 10}, {15, 15, 1, 15}, {16, 16, 1, 16}, {17, 17, 1, 17}, {18, 18, 1, 18}}},
		"after a pause it begins anew":             {asks: []ask{{0, 0, 0, 0}, {10, 10, 1, 10}, {500, 20, 0, 0}, {501, 25, 5, 1}}},
		"a number that fell is another one":        {asks: []ask{{0, 100, 0, 0}, {10, 50, 0, 0}, {20, 60, 1, 10}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMeter()
			for i, a := range c.asks {
				got, window, ok := m.rate("x", reading{at(a.at), a.value}, c.since)
				if ok != (a.window > 0) || got != a.want || window.Seconds() != a.window {
					t.Errorf("question %d: %d over %s, %t; want %d over %gs", i, got, window, ok, a.want, a.window)
				}
			}
			m.tidy(at(10000))
			if len(m.tracks) != 0 {
				t.Error("it remembers for ever")
			}
		})
	}
}

func TestMeterKeepsUses(t *testing.T) {
	m := newMeter()
	measured := 0
	measure := func() (machine.Use, error) {
		measured++
		return machine.Use{Bytes: uint64(measured)}, errors.New("half of it")
	}
	for range 3 {
		if u, err := m.use("x", time.Hour, measure); u.Bytes != 1 || err == nil {
			t.Errorf("%+v, %v", u, err)
		}
	}
	if u, _ := m.use("x", 0, measure); u.Bytes != 2 {
		t.Errorf("%+v", u)
	}
}
