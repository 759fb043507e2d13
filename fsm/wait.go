package fsm

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"sync/atomic"
)

// waiters are goroutines that wait for a number (index, revision) to be reached. Publishing costs one atomic load
// unless somebody is to be woken, and wakes only those.
type waiters struct {
	least atomic.Uint64 // smallest target; math.MaxUint64 when nobody waits
	mu    sync.Mutex
	heap  waitHeap
}

type waiter struct {
	target uint64
	at     int           // place in the heap; -1 once removed
	done   chan struct{} // closed when the target is reached
}

func (w *waiters) init() { w.least.Store(math.MaxUint64) }

// wait returns when now() ≥ target.
func (w *waiters) wait(ctx context.Context, target uint64, now func() uint64) error {
	if now() >= target {
		return nil
	}
	me := &waiter{target: target, done: make(chan struct{})}
	w.mu.Lock()
	heap.Push(&w.heap, me)
	w.setLeast()
	w.mu.Unlock()
	// The number may have been published between the check above and the push: whoever comes second sees the other.
	if now() >= target {
		w.remove(me)
		return nil
	}
	select {
	case <-me.done:
		return nil
	case <-ctx.Done():
		w.remove(me)
		return ctx.Err()
	}
}

func (w *waiters) remove(me *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if me.at >= 0 {
		heap.Remove(&w.heap, me.at)
		w.setLeast()
	}
}

// reached wakes everybody who waits for number or less. It is called after number is published.
func (w *waiters) reached(number uint64) {
	if number < w.least.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.heap) > 0 && w.heap[0].target <= number {
		close(heap.Pop(&w.heap).(*waiter).done)
	}
	w.setLeast()
}

func (w *waiters) setLeast() {
	if len(w.heap) == 0 {
		w.least.Store(math.MaxUint64)
		return
	}
	w.least.Store(w.heap[0].target)
}

type waitHeap []*waiter

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].target < h[j].target }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *waitHeap) Push(x any) {
	w := x.(*waiter)
	w.at = len(*h)
	*h = append(*h, w)
}
func (h *waitHeap) Pop() any {
	n := len(*h) - 1
	w := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	w.at = -1
	return w
}
