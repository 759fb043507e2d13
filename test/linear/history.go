// Package linear checks promises about single objects while masters are killed: reads and writes at every master are
// linearizable, no acknowledged write is lost, and a watch, resumed at whichever master answers, has no gap, no duplicate and no
// step back in time.
package linear

import (
	"fmt"
	"math"
	"sort"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// op is one request and its answer, as its client saw it.
type op struct {
	client   int
	key      string
	write    bool
	value    string // written, or read
	revision string // that the answer gave
	call     time.Duration
	end      time.Duration
	unknown  bool // a write that may or may not have happened
}

type history struct {
	mu    sync.Mutex
	began time.Time
	ops   []op
}

func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) add(o op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// counts of acknowledged writes, writes of unknown outcome, and reads.
func (h *history) counts() (writes, unknown, reads int) {
	for _, o := range h.ops {
		switch {
		case !o.write:
			reads++
		case o.unknown:
			unknown++
		default:
			writes++
		}
	}
	return writes, unknown, reads
}

// register is the model: one value for each key, independent of each other.
var register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range all {
			k := o.Input.(op).key
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
		o := input.(op)
		if o.write {
			return true, o.value
		}
		return state.(string) == o.value, state
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, _ any) string {
		o := input.(op)
		if o.write {
			return fmt.Sprintf("put(%s, %s)", o.key, o.value)
		}
		return fmt.Sprintf("get(%s) = %s", o.key, o.value)
	},
}

// operations in porcupine's form; a write of unknown outcome may take effect at any time after it was sent.
func (h *history) operations() []porcupine.Operation {
	var all []porcupine.Operation
	for _, o := range h.ops {
		end := int64(o.end)
		if o.unknown {
			end = math.MaxInt64
		}
		all = append(all, porcupine.Operation{ClientId: o.client, Input: o, Call: int64(o.call), Return: end})
	}
	return all
}
