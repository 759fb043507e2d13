package containerd

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// gate lets so many containers be made at once, and the others wait in the order in which they came. A crowd would not be ready
// sooner, but all of it at the same late time, for a tenth more CPU. A place is a courtesy: whoever takes unusually long over it, as
// with a device that does not answer, gives it up and goes on without.
type gate struct {
	places   chan struct{}
	patience time.Duration
}

func newGate() gate {
	return gate{places: make(chan struct{}, 4*runtime.NumCPU()), patience: 2 * time.Second}
}

// enter waits for a place; leave gives it back, and may be called more than once.
func (g gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	free := sync.OnceFunc(func() { <-g.places })
	timer := time.AfterFunc(g.patience, free)
	return func() { timer.Stop(); free() }, nil
}
