//go:build failpoints && linux && amd64

package failpoint

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// The kernel has no wall clock of its own for each process, and libraries that fake one are not asked by Go programs. But Go asks
// the kernel's vDSO through one pointer. install points it to shifted (clock_amd64.s), which asks the vDSO and moves what it says
// of the wall clock. It needs -ldflags=-checklinkname=0.

const clockName = "clock"

var (
	vdso    uintptr // the vDSO's clock_gettime
	offset  int64   // seconds, added to the wall clock
	install = sync.OnceFunc(installClock)
)

func installClock()

// setClock moves the wall clock of this process by what the duration says, off the kernel's.
func setClock(by string) error {
	d, err := time.ParseDuration(by)
	if err != nil {
		return fmt.Errorf("clock=%s: %w", by, err)
	}
	install()
	if vdso == 0 {
		return fmt.Errorf("clock=%s: this kernel has no vDSO", by)
	}
	atomic.StoreInt64(&offset, int64(d/time.Second))
	return nil
}
