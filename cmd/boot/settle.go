package boot

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// A process is settled when it has used less than restingCPU of a processor for settledAfter.
const (
	settledAfter = 20 * time.Second
	restingCPU   = 0.05
	worthIt      = 8 << 20 // bytes of the binary that were read since they were given back
)

// settle gives memory back: once, garbage of the start, and whenever the process rests after work, the pages of the binary that it read
// on the way (tables of types and of stack frames, initialisers, and what the kernel mapped around them), which are most of what
// an idle process holds. Pages that are needed again come from the page cache: a fault for each 64 KiB.
func settle(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(settledAfter)
	defer tick.Stop()
	var before time.Duration
	var kept int64 // what the process needs at rest; 0: to be seen
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := cpuTime()
		rests := now-before < time.Duration(restingCPU*float64(settledAfter))
		before = now
		if first {
			debug.FreeOSMemory()
		} else if now := fileMemory(); kept == 0 {
			kept = now
			continue
		} else if !rests || now < kept+worthIt {
			continue
		}
		if err := dropBinary(); err != nil {
			log.Debug("the binary's pages stay in memory", "err", err)
			return
		}
		kept = 0
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fileMemory is how many bytes of files this process has mapped and in memory; 0: not known.
func fileMemory() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(b), &size, &resident, &shared); err != nil {
		return 0
	}
	return shared * int64(os.Getpagesize())
}

// dropBinary unmaps the pages of the read-only parts of this process's binary; the mapping itself stays.
func dropBinary() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		from, to, ok := readOnly(lines.Text(), exe)
		if !ok {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise %x-%x: %w", from, to, errno)
		}
	}
	return lines.Err()
}

// readOnly parses a line of /proc/PID/maps; ok says that it maps a part of file that is not written to.
func readOnly(line, file string) (from, to uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || strings.Join(f[5:], " ") != file || strings.Contains(f[1], "w") {
		return 0, 0, false
	}
	if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil {
		return 0, 0, false
	}
	return from, to, to > from
}
