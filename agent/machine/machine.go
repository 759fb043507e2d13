// Package machine reads what a machine has and how it is used: memory, processors, processes, networks, file systems. Everything
// comes from /proc, /sys and statfs; nothing is kept.
package machine

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is where to look; the zero value is the machine this program runs on.
type Machine struct {
	Root string // before /proc and /sys; tests have files of their own there
}

func (m Machine) path(p string) string { return m.Root + p }

// Line is the first line of a file without white space around it, "" if it cannot be read.
func (m Machine) Line(path string) string {
	b, err := os.ReadFile(m.path(path))
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

func (m Machine) number(path string) (int64, error) {
	n, err := strconv.ParseInt(m.Line(path), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// Memory of the machine, in bytes.
type Memory struct {
	Total, Used, WorkingSet, Available uint64 // Used: not free; Available: Total without the working set
	RSS, Cache                         uint64
	SwapTotal, SwapFree                uint64
	Faults, MajorFaults                uint64
}

// Memory reads /proc/meminfo. The working set is what cannot be taken back at once, as kubelet and cAdvisor define it for cgroups.
func (m Machine) Memory() (Memory, error) {
	text, err := os.ReadFile(m.path("/proc/meminfo"))
	if err != nil {
		return Memory{}, fmt.Errorf("reading the machine's memory: %w", err)
	}
	kb := fields(text, ":")
	if kb["MemTotal"] == 0 {
		return Memory{}, fmt.Errorf("reading the machine's memory: /proc/meminfo does not name its size")
	}
	out := Memory{
		Total: kb["MemTotal"] << 10, RSS: kb["AnonPages"] << 10, Cache: kb["Cached"] << 10,
		SwapTotal: kb["SwapTotal"] << 10, SwapFree: kb["SwapFree"] << 10,
	}
	out.Used = less(out.Total, kb["MemFree"]<<10)
	out.WorkingSet = less(out.Used, kb["Inactive(file)"]<<10)
	out.Available = less(out.Total, out.WorkingSet)
	if text, err := os.ReadFile(m.path("/proc/vmstat")); err == nil {
		pages := fields(text, " ")
		out.Faults, out.MajorFaults = pages["pgfault"], pages["pgmajfault"]
	}
	return out, nil
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// fields reads lines of a name, a separator and a number.
func fields(text []byte, separator string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range bytes.Lines(text) {
		name, rest, ok := strings.Cut(string(line), separator)
		if !ok {
			continue
		}
		words := strings.Fields(rest)
		if len(words) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(words[0], 10, 64); err == nil {
			out[name] = n
		}
	}
	return out
}

// ticks is how often a second the kernel counts the use of processors in /proc/stat (USER_HZ, the same on every Linux).
const ticks = 100

// CPUNanos is how long the machine's processors have worked since it started, in nanoseconds.
func (m Machine) CPUNanos() (uint64, error) {
	words := strings.Fields(m.Line("/proc/stat")) // cpu user nice system idle iowait irq softirq steal …
	if len(words) < 9 || words[0] != "cpu" {
		return 0, fmt.Errorf("reading the use of processors: /proc/stat begins with %q", words)
	}
	var sum uint64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseUint(words[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the use of processors: %w", err)
		}
		sum += n
	}
	return sum * (uint64(time.Second) / ticks), nil
}

// CPUs is the number of processors that this program may use.
func (m Machine) CPUs() int { return runtime.NumCPU() }

// Started is when the machine was booted; zero if it does not say.
func (m Machine) Started() time.Time {
	text, err := os.ReadFile(m.path("/proc/stat"))
	if err != nil {
		return time.Time{}
	}
	at := fields(text, " ")["btime"]
	if at == 0 || at > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(int64(at), 0)
}

// Tasks are the processes and threads that there are, and the most that there can be.
func (m Machine) Tasks() (now, most int64, err error) {
	words := strings.Fields(m.Line("/proc/loadavg")) // 0.1 0.1 0.1 2/345 6789
	if len(words) < 4 {
		return 0, 0, fmt.Errorf("counting processes: /proc/loadavg has %q", words)
	}
	_, all, _ := strings.Cut(words[3], "/")
	if now, err = strconv.ParseInt(all, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("counting processes: %w", err)
	}
	if most, err = m.number("/proc/sys/kernel/pid_max"); err != nil {
		return 0, 0, err
	}
	if threads, err := m.number("/proc/sys/kernel/threads-max"); err == nil {
		most = min(most, threads)
	}
	return now, most, nil
}

// HugePages are the bytes that are set aside as huge pages, by the pages' size in bytes.
func (m Machine) HugePages() map[int64]int64 {
	const below = "/sys/kernel/mm/hugepages"
	entries, err := os.ReadDir(m.path(below))
	if err != nil {
		return nil
	}
	out := map[int64]int64{}
	for _, e := range entries { // hugepages-2048kB
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		if n, err := m.number(filepath.Join(below, e.Name(), "nr_hugepages")); err == nil {
			out[kb<<10] = n * (kb << 10)
		}
	}
	return out
}

// Interface is a network interface and what went through it.
type Interface struct {
	Name                                    string
	RxBytes, RxErrors, RxPackets, RxDropped uint64
	TxBytes, TxErrors, TxPackets, TxDropped uint64
}

// Interfaces of the network that a process is in, without the loopback; "self" is this program.
func (m Machine) Interfaces(process string) ([]Interface, error) {
	text, err := os.ReadFile(m.path("/proc/" + process + "/net/dev"))
	if err != nil {
		return nil, fmt.Errorf("reading the use of networks: %w", err)
	}
	var out []Interface
	for line := range bytes.Lines(text) {
		name, rest, ok := strings.Cut(string(line), ":")
		words := strings.Fields(rest)
		name = strings.TrimSpace(name)
		if !ok || len(words) < 16 || name == "lo" {
			continue
		}
		var n [16]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(words[i], 10, 64)
		}
		out = append(out, Interface{name, n[0], n[2], n[1], n[3], n[8], n[10], n[9], n[11]})
	}
	return out, nil
}

// Uplink is the interface of the network's default route; "" if there is none.
func (m Machine) Uplink(process string) string {
	text, err := os.ReadFile(m.path("/proc/" + process + "/net/route"))
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(text) {
		if words := strings.Fields(string(line)); len(words) > 2 && words[1] == "00000000" {
			return words[0]
		}
	}
	return ""
}

// Fs is a file system.
type Fs struct {
	Device                    uint64 // two paths with the same are on one file system
	Capacity, Available, Used uint64 // bytes
	Inodes, InodesFree        uint64 // 0 where the file system does not count them
}

// Fs asks the file system that a path is on.
func (m Machine) Fs(path string) (Fs, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Fs{}, fmt.Errorf("asking the file system of %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Fs{}, fmt.Errorf("asking the file system of %s: %w", path, err)
	}
	size := uint64(s.Bsize)
	return Fs{
		Device: st.Dev, Capacity: s.Blocks * size, Available: s.Bavail * size, Used: (s.Blocks - s.Bfree) * size,
		Inodes: s.Files, InodesFree: s.Ffree,
	}, nil
}

// Device is the path of a block device by its numbers ("8:0" → "/dev/sda"), or the numbers where the kernel knows no name.
func (m Machine) Device(numbers string) string {
	link, err := os.Readlink(m.path("/sys/dev/block/" + numbers))
	if err != nil {
		return numbers
	}
	return "/dev/" + filepath.Base(link)
}

// Self is what this program has used of processors, in nanoseconds, and the memory that it has now.
func Self() (cpuNanos, rss uint64) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err == nil {
		cpuNanos = uint64(u.Utime.Nano() + u.Stime.Nano())
	}
	words := strings.Fields(Machine{}.Line("/proc/self/statm")) // size resident shared …
	if len(words) > 1 {
		if pages, err := strconv.ParseUint(words[1], 10, 64); err == nil {
			rss = pages * uint64(os.Getpagesize())
		}
	}
	return cpuNanos, rss
}
