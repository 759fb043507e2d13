// Package load puts load on a cluster that is being hurt and judges what its clients saw: registers that are read and written at
// every master and must be linearizable (history.go, registers.go), objects whose acknowledged creation must never be lost
// (acks.go), and watches that must have no gap, no duplicate and no step back in time (watch.go).
//
// It knows no cluster: it takes a client for each master. What hurts them, and how often, is the test's affair.
package load

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Op is one request and its answer, as its client saw it.
type Op struct {
	Client   int
	Key      string
	Write    bool
	Value    string // written, or read
	Revision string // that the answer gave
	Call     time.Duration
	End      time.Duration
	Unknown  bool // a write that may or may not have happened
}

// History is what clients did, each operation with its begin and end on one clock. The zero value is ready.
type History struct {
	mu    sync.Mutex
	began time.Time
	ops   []Op
}

// Now is the time since the first call of Now.
func (h *History) Now() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.began.IsZero() {
		h.began = time.Now()
	}
	return time.Since(h.began)
}

// Add notes an operation that has ended.
func (h *History) Add(o Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// Ops is a copy of what was noted so far.
func (h *History) Ops() []Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ops)
}

// Counts of acknowledged writes, writes of unknown outcome, and reads.
func (h *History) Counts() (writes, unknown, reads int) {
	for _, o := range h.Ops() {
		switch {
		case !o.Write:
			reads++
		case o.Unknown:
			unknown++
		default:
			writes++
		}
	}
	return writes, unknown, reads
}

// Linearizable checks the history, each key for itself, for at most limit. It returns how many keys (histories) there were, and an
// error if one has no order that explains it, or none was found or ruled out in time.
func (h *History) Linearizable(limit time.Duration) (keys int, err error) {
	ops := h.Ops()
	names := map[string]bool{}
	for _, o := range ops {
		names[o.Key] = true
	}
	switch porcupine.CheckOperationsTimeout(Register, operations(ops), limit) {
	case porcupine.Illegal:
		return len(names), fmt.Errorf("the history is not linearizable: %s", culprits(ops, limit))
	case porcupine.Unknown:
		return len(names), fmt.Errorf("linearizability could not be decided in %s", limit)
	}
	return len(names), nil
}

// culprits names the keys whose history cannot be explained, with the operations of the first.
func culprits(ops []Op, limit time.Duration) string {
	byKey := map[string][]Op{}
	for _, o := range ops {
		byKey[o.Key] = append(byKey[o.Key], o)
	}
	var bad []string
	for key, own := range byKey {
		if porcupine.CheckOperationsTimeout(Register, operations(own), limit) == porcupine.Illegal {
			bad = append(bad, key)
		}
	}
	slices.Sort(bad)
	if len(bad) == 0 {
		return "no single key shows it"
	}
	text := fmt.Sprintf("%d keys; %s:", len(bad), bad[0])
	own := byKey[bad[0]]
	slices.SortFunc(own, func(a, b Op) int { return int(a.Call - b.Call) })
	for _, o := range own {
		verb := "read"
		if o.Write {
			verb = "write"
		}
		if o.Unknown {
			verb = "write?"
		}
		text += fmt.Sprintf("\n%9.3fs–%9.3fs client %d %s %q at revision %s", o.Call.Seconds(), o.End.Seconds(), o.Client, verb, o.Value, o.Revision)
	}
	return text
}

// Register is the model: one value for each key, independent of each other.
var Register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range all {
			k := o.Input.(Op).Key
			byKey[k] = append(byKey[k], o)
		}
		keys := make([]string, 0, len(byKey))
		for k := range byKey {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		parts := make([][]porcupine.Operation, 0, len(keys))
		for _, k := range keys {
			parts = append(parts, byKey[k])
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(Op)
		if o.Write {
			return true, o.Value
		}
		return state.(string) == o.Value, state
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, _ any) string {
		o := input.(Op)
		if o.Write {
			return fmt.Sprintf("put(%s, %s)", o.Key, o.Value)
		}
		return fmt.Sprintf("get(%s) = %s", o.Key, o.Value)
	},
}

// operations in porcupine's form; a write of unknown outcome may take effect at any time after it was sent.
func operations(ops []Op) []porcupine.Operation {
	all := make([]porcupine.Operation, 0, len(ops))
	for _, o := range ops {
		end := int64(o.End)
		if o.Unknown {
			end = math.MaxInt64
		}
		all = append(all, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Return: end})
	}
	return all
}
