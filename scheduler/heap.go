package scheduler

// heap is a binary heap; the element before all others, by less, is at the top.
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
}

// build makes a heap of items, in linear time.
func (h *heap[T]) build(items []T) {
	h.items = items
	for i := len(items)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h *heap[T]) push(item T) {
	h.items = append(h.items, item)
	for i := len(h.items) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h.less(h.items[i], h.items[parent]) {
			return
		}
		h.items[i], h.items[parent] = h.items[parent], h.items[i]
		i = parent
	}
}

// pop takes the top off; the heap must not be empty.
func (h *heap[T]) pop() T {
	last := len(h.items) - 1
	top := h.items[0]
	h.items[0] = h.items[last]
	h.items[last] = *new(T)
	h.items = h.items[:last]
	h.down(0)
	return top
}

func (h *heap[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			return
		}
		if right := child + 1; right < len(h.items) && h.less(h.items[right], h.items[child]) {
			child = right
		}
		if !h.less(h.items[child], h.items[i]) {
			return
		}
		h.items[i], h.items[child] = h.items[child], h.items[i]
		i = child
	}
}
