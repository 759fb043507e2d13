package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// None removes a limit.
const None = -1

// Limits of a cgroup. A zero field leaves what is there; None removes the limit.
type Limits struct {
	CPUShares uint64 // 2 to 262144, 1024 for each cpu; on v2 a weight of 1 to 10000
	CPUQuota  int64  // µs in each period
	CPUPeriod uint64 // µs; 0 with a quota: 100,000
	Memory    int64  // bytes; no swap beside it where swap is accounted
	Pids      int64
	HugePages map[string]int64  // bytes by page size as the kernel writes it ("2MB"); those of other sizes are left
	Unified   map[string]string // files of v2, written as they are; nothing on v1
}

// Merge returns l with the fields that other sets.
func (l Limits) Merge(other Limits) Limits {
	for _, f := range []struct{ to, from *int64 }{{&l.CPUQuota, &other.CPUQuota}, {&l.Memory, &other.Memory}, {&l.Pids, &other.Pids}} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	if other.CPUShares != 0 {
		l.CPUShares = other.CPUShares
	}
	if other.CPUPeriod != 0 {
		l.CPUPeriod = other.CPUPeriod
	}
	if other.HugePages != nil {
		l.HugePages = other.HugePages
	}
	if other.Unified != nil {
		l.Unified = other.Unified
	}
	return l
}

// setting is a value for a file of one controller.
type setting struct {
	controller, file, value string
	optional                bool // where the file is not there, the kernel does not count it
}

// Set writes the limits of a cgroup that is there. What is written already is not written again.
func (f *FS) Set(name string, l Limits) error {
	settings := f.v1Settings(name, l)
	if f.unified {
		settings = v2Settings(l)
	}
	for _, s := range settings {
		path := filepath.Join(f.Path(s.controller, name), s.file)
		if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == s.value {
			continue
		}
		err := write(path, s.value)
		if err == nil || s.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("limit cgroup %s: it is not there, or the kernel has no %s", name, s.file)
		}
		return fmt.Errorf("limit cgroup %s: %s: %w", name, s.file, err)
	}
	return nil
}

func (f *FS) v1Settings(name string, l Limits) []setting {
	var out []setting
	if l.CPUShares != 0 {
		out = append(out, setting{"cpu", "cpu.shares", strconv.FormatUint(l.CPUShares, 10), false})
	}
	if l.CPUQuota != 0 {
		quota := setting{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(l.CPUQuota, 10), false}
		period := setting{"cpu", "cpu.cfs_period_us", strconv.FormatUint(period(l), 10), false}
		out = append(out, period, quota)
	}
	if l.Memory != 0 {
		limit := setting{"memory", "memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10), false}
		both := setting{"memory", "memory.memsw.limit_in_bytes", limit.value, true}
		// Memory with swap may never be limited to less than memory alone, not even between two writes.
		if now, err := f.Number("memory", name, "memory.memsw.limit_in_bytes"); err == nil && (l.Memory == None || uint64(l.Memory) > now) {
			out = append(out, both, limit)
		} else {
			out = append(out, limit, both)
		}
	}
	if l.Pids != 0 {
		out = append(out, setting{"pids", "pids.max", orMax(l.Pids), true})
	}
	for _, size := range slices.Sorted(maps.Keys(l.HugePages)) {
		out = append(out, setting{"hugetlb", "hugetlb." + size + ".limit_in_bytes", strconv.FormatInt(l.HugePages[size], 10), true})
	}
	return out
}

func v2Settings(l Limits) []setting {
	var out []setting
	add := func(file, value string, optional bool) { out = append(out, setting{"", file, value, optional}) }
	if l.CPUShares != 0 {
		add("cpu.weight", strconv.FormatUint(Weight(l.CPUShares), 10), false)
	}
	if l.CPUQuota != 0 {
		add("cpu.max", orMax(l.CPUQuota)+" "+strconv.FormatUint(period(l), 10), false)
	}
	if l.Memory != 0 {
		add("memory.max", orMax(l.Memory), false)
		if l.Memory != None {
			add("memory.swap.max", "0", true)
		}
	}
	if l.Pids != 0 {
		add("pids.max", orMax(l.Pids), true)
	}
	for _, size := range slices.Sorted(maps.Keys(l.HugePages)) {
		add("hugetlb."+size+".max", orMax(l.HugePages[size]), true)
	}
	for _, file := range slices.Sorted(maps.Keys(l.Unified)) {
		add(file, l.Unified[file], true)
	}
	return out
}

func period(l Limits) uint64 {
	if l.CPUPeriod == 0 {
		return 100_000
	}
	return l.CPUPeriod
}

func orMax(n int64) string {
	if n == None {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// Weight is the v2 weight for shares of v1, as runc 1.3 and later convert: 2 is 1, 1024 is 100, 262144 is 10000, and between
// them a curve that keeps small requests apart (KEP-2254, changed in 2025).
func Weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// Limited returns the memory limit of a cgroup in bytes and its cpu quota in µs; None where there is none.
func (f *FS) Limited(name string) (memory, quota int64, err error) {
	file := "memory.limit_in_bytes"
	if f.unified {
		file = "memory.max"
	}
	bytes, err := f.Number("memory", name, file)
	if err != nil {
		return 0, 0, fmt.Errorf("read the limits of cgroup %s: %w", name, err)
	}
	memory = None
	if bytes < math.MaxInt64&^0xffff { // v1 writes the largest page boundary where there is no limit
		memory = int64(bytes)
	}
	quota, err = f.quota(name)
	if err != nil {
		return 0, 0, fmt.Errorf("read the limits of cgroup %s: %w", name, err)
	}
	return memory, quota, nil
}

func (f *FS) quota(name string) (int64, error) {
	file := "cpu.cfs_quota_us"
	if f.unified {
		file = "cpu.max"
	}
	text, err := f.Read("cpu", name, file)
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(text, " ")
	if first == "max" || first == "-1" {
		return None, nil
	}
	return strconv.ParseInt(first, 10, 64)
}

// HugePageSizes lists the sizes of huge pages that the machine has, as the kernel's cgroup files name them: "2MB", "1GB".
func HugePageSizes() []string {
	dirs, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var out []string
	for _, d := range dirs {
		text, ok := strings.CutPrefix(d.Name(), "hugepages-")
		kb, err := strconv.ParseInt(strings.TrimSuffix(text, "kB"), 10, 64)
		if ok && err == nil {
			out = append(out, PageSize(kb<<10))
		}
	}
	slices.Sort(out)
	return out
}

// PageSize names a page size given in bytes as the kernel's cgroup files do.
func PageSize(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return strconv.FormatInt(bytes>>30, 10) + "GB"
	case bytes >= 1<<20:
		return strconv.FormatInt(bytes>>20, 10) + "MB"
	}
	return strconv.FormatInt(bytes>>10, 10) + "KB"
}
