package containerd

import (
	"context"
	"fmt"

	"mgr/agent/machine"
)

// Layer implements agent.Runtime: containerd walks the files that the container has written.
func (r *Runtime) Layer(ctx context.Context, id string) (machine.Use, error) {
	use, err := r.snaps.Usage(scope(ctx), id)
	if err != nil {
		return machine.Use{}, fmt.Errorf("measuring what container %s has written: %w", id, err)
	}
	return machine.Use{Bytes: uint64(max(use.Size, 0)), Inodes: uint64(max(use.Inodes, 0))}, nil
}
