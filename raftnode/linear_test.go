package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

// registerInput writes value, or reads if value is "".
type registerInput struct{ value string }

var registerModel = porcupine.Model{
	Init: func() any { return "0" },
	Step: func(state, input, output any) (bool, any) {
		if v := input.(registerInput).value; v != "" {
			return true, v
		}
		return output == state, state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v → %v", input, output) },
}

// history collects operations; time is a counter, since in a bubble many things happen at one instant.
type history struct {
	clock atomic.Int64
	mu    sync.Mutex
	ops   []porcupine.Operation
	lost  int // writes of unknown outcome
}

func (h *history) add(op porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if op.Return == forever {
		h.lost++
	}
	h.ops = append(h.ops, op)
}

const forever = 1 << 62

// TestLinearizableReads writes and reads a register at all peers while leaders are cut off, frozen, and asked to hand over,
// with latencies that let answers arrive long after the question, and clocks so slow that an old leader still believes in
// itself while a new one writes; porcupine judges.
func TestLinearizableReads(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{}
			synctest.Test(t, func(t *testing.T) { runRegister(t, h, rand.New(rand.NewPCG(seed, 1))) })
			if result := porcupine.CheckOperationsTimeout(registerModel, h.ops, time.Minute); result != porcupine.Ok {
				t.Errorf("%d operations are not linearizable: %v", len(h.ops), result)
			}
			if len(h.ops) < 500 {
				t.Errorf("only %d operations", len(h.ops))
			}
			t.Logf("%d operations, %d writes of unknown outcome", len(h.ops), h.lost)
		})
	}
}

func runRegister(t *testing.T, h *history, random *rand.Rand) {
	var mu sync.Mutex
	intn := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{
		Slow: map[string]int{"m1": 4, "m2": 3},
		Latency: func() time.Duration {
			if intn(20) == 0 {
				return time.Duration(intn(60)) * time.Millisecond
			}
			return time.Duration(intn(1000)) * time.Microsecond
		},
	})
	mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			p := c.Peers[client%len(c.Peers)]
			for i := 0; ctx.Err() == nil; i++ {
				if client < 3 {
					write(ctx, h, p, client, fmt.Sprintf("%d.%d", client, i))
				} else {
					read(ctx, h, p, client)
				}
				time.Sleep(time.Duration(intn(40)) * time.Millisecond)
			}
		})
	}
	for range 25 {
		time.Sleep(time.Duration(intn(400)) * time.Millisecond)
		leader := c.Leader()
		switch intn(3) {
		case 0:
			c.Cut(leader)
		case 1:
			c.Freeze(leader)
		default:
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			_ = leader.Node.TransferLeadership(ctx) // with such latencies it may fail
			cancel()
		}
		time.Sleep(time.Duration(intn(600)) * time.Millisecond)
		c.Heal(leader)
	}
	cancel()
	wg.Wait()
}

func write(ctx context.Context, h *history, p *raftnodetest.Peer, client int, value string) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	op := porcupine.Operation{ClientId: client, Input: registerInput{value}, Call: h.clock.Add(1)}
	r, err := p.Node.Propose(ctx, put(fsm.Update, "x", value))
	switch {
	case err == nil && r.Refusal == nil:
		op.Return = h.clock.Add(1)
	case errors.Is(err, fsm.ErrUnknown):
		// It may take effect at any time from now on, so the client must not count as waiting for it.
		op.Return, op.ClientId = forever, 1000+int(op.Call)
	default:
		return // not written
	}
	h.add(op)
}

func read(ctx context.Context, h *history, p *raftnodetest.Peer, client int) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	op := porcupine.Operation{ClientId: client, Input: registerInput{}, Call: h.clock.Add(1)}
	if p.Node.ReadIndex(ctx) != nil {
		return
	}
	o := p.FSM.State().Get(fsm.Key{Resource: "registers", Name: "x"})
	_, value, _ := strings.Cut(string(o.Data), `"data":"`)
	op.Output, op.Return = strings.TrimSuffix(value, `"}`), h.clock.Add(1)
	h.add(op)
}
