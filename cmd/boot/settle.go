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

// settledAfter is when a process has done what only its start needed.
const settledAfter = 20 * time.Second

// settle gives memory back once: garbage of the start, and the pages of the binary that were read on the way (tables of types,
// initialisers, and what the kernel mapped around them) – most of what an idle process holds. Pages that are needed again come from
// the page cache.
func settle(ctx context.Context, log *slog.Logger) {
	timer := time.NewTimer(settledAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	debug.FreeOSMemory()
	if err := dropBinary(); err != nil {
		log.Debug("the binary's pages stay in memory", "err", err)
	}
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
