package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// unlimited: from here on a v1 limit is the kernel's way to say that there is none.
const unlimited = uint64(1) << 60

// Detail is everything that is shown of a cgroup. What the kernel does not count is 0.
type Detail struct {
	Usage
	UserNanos, SystemNanos uint64
	Periods, Throttled     uint64 // of the quota
	ThrottledNanos         uint64

	RSS, Cache, Mapped, Swap uint64 // bytes
	Faults, MajorFaults      uint64
	MemoryPeak               uint64
	MemoryFails              uint64 // how often the limit was hit
	MemoryLimit, SwapLimit   uint64 // 0: none

	Disks    []DiskIO
	Pressure *Pressures // nil: the kernel does not measure it
}

// DiskIO is what went to and from one block device.
type DiskIO struct {
	Device                               string // major:minor
	ReadBytes, WriteBytes, Reads, Writes uint64
}

// Pressures are the kernel's pressure stall information of a cgroup or the machine.
type Pressures struct{ CPU, Memory, IO Pressure }

// Pressure of one resource.
type Pressure struct{ Some, Full Stall }

// Stall is how long tasks were stalled: averages in percent, the total in microseconds.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Detail reads all that is shown of a cgroup.
func (f *FS) Detail(name string) (Detail, error) {
	u, err := f.Usage(name)
	if err != nil {
		return Detail{}, err
	}
	d := Detail{Usage: u}
	read := f.detailV1
	if f.unified {
		read = f.detailV2
	}
	if err := read(name, &d); err != nil {
		return Detail{}, fmt.Errorf("read the use of cgroup %s: %w", name, err)
	}
	return d, nil
}

func (f *FS) detailV1(name string, d *Detail) error {
	stat, err := f.Read("memory", name, "memory.stat")
	if err != nil {
		return err
	}
	values := keys(stat)
	d.RSS, d.Cache, d.Mapped, d.Swap = values["total_rss"], values["total_cache"], values["total_mapped_file"], values["total_swap"]
	d.Faults, d.MajorFaults = values["total_pgfault"], values["total_pgmajfault"]
	cpu, err := f.Read("cpu", name, "cpu.stat")
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	values = keys(cpu)
	d.Periods, d.Throttled, d.ThrottledNanos = values["nr_periods"], values["nr_throttled"], values["throttled_time"]
	var both uint64 // memory and swap
	for _, n := range []struct {
		controller, file string
		to               *uint64
	}{
		{"cpuacct", "cpuacct.usage_user", &d.UserNanos}, {"cpuacct", "cpuacct.usage_sys", &d.SystemNanos},
		{"memory", "memory.max_usage_in_bytes", &d.MemoryPeak}, {"memory", "memory.failcnt", &d.MemoryFails},
		{"memory", "memory.limit_in_bytes", &d.MemoryLimit}, {"memory", "memory.memsw.limit_in_bytes", &both},
	} {
		if *n.to, err = f.Number(n.controller, name, n.file); err != nil {
			return err
		}
	}
	if d.MemoryLimit >= unlimited {
		d.MemoryLimit = 0
	}
	if d.MemoryLimit > 0 && both > d.MemoryLimit && both < unlimited {
		d.SwapLimit = both - d.MemoryLimit
	}
	d.Disks = f.disksV1(name)
	return nil
}

func (f *FS) detailV2(name string, d *Detail) error {
	stat, err := f.Read("", name, "memory.stat")
	if err != nil {
		return err
	}
	values := keys(stat)
	d.RSS, d.Cache, d.Mapped = values["anon"], values["file"], values["file_mapped"]
	d.Faults, d.MajorFaults = values["pgfault"], values["pgmajfault"]
	cpu, err := f.Read("", name, "cpu.stat")
	if err != nil {
		return err
	}
	values = keys(cpu)
	d.UserNanos, d.SystemNanos = values["user_usec"]*1000, values["system_usec"]*1000
	d.Periods, d.Throttled, d.ThrottledNanos = values["nr_periods"], values["nr_throttled"], values["throttled_usec"]*1000
	for _, n := range []struct {
		file string
		to   *uint64
	}{{"memory.swap.current", &d.Swap}, {"memory.peak", &d.MemoryPeak}, {"memory.max", &d.MemoryLimit}, {"memory.swap.max", &d.SwapLimit}} {
		if *n.to, err = f.Number("", name, n.file); err != nil {
			return err
		}
		if *n.to >= unlimited {
			*n.to = 0
		}
	}
	if events, err := f.Read("", name, "memory.events"); err == nil {
		d.MemoryFails = Keyed(events, "max")
	}
	d.Disks = f.disksV2(name)
	d.Pressure = ReadPressures(f.Path("", name), ".pressure")
	return nil
}

// disksV1 reads the files of the throttling policy: the only ones that count whatever the scheduler of the device is.
func (f *FS) disksV1(name string) []DiskIO {
	devices := map[string]*DiskIO{}
	var order []string
	each := func(file string, set func(d *DiskIO, what string, n uint64)) {
		text, err := f.Read("blkio", name, file)
		if err != nil {
			return
		}
		for line := range strings.Lines(text) {
			words := strings.Fields(line) // 8:0 Read 4096
			if len(words) != 3 {
				continue
			}
			n, _ := strconv.ParseUint(words[2], 10, 64)
			d := devices[words[0]]
			if d == nil {
				d = &DiskIO{Device: words[0]}
				devices[words[0]] = d
				order = append(order, words[0])
			}
			set(d, words[1], n)
		}
	}
	each("blkio.throttle.io_service_bytes_recursive", func(d *DiskIO, what string, n uint64) {
		switch what {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WriteBytes = n
		}
	})
	each("blkio.throttle.io_serviced_recursive", func(d *DiskIO, what string, n uint64) {
		switch what {
		case "Read":
			d.Reads = n
		case "Write":
			d.Writes = n
		}
	})
	out := make([]DiskIO, 0, len(order))
	for _, device := range order {
		out = append(out, *devices[device])
	}
	return out
}

func (f *FS) disksV2(name string) []DiskIO {
	text, err := f.Read("", name, "io.stat")
	if err != nil {
		return nil
	}
	var out []DiskIO
	for line := range strings.Lines(text) {
		words := strings.Fields(line) // 8:0 rbytes=4096 wbytes=0 rios=1 …
		if len(words) < 2 {
			continue
		}
		d := DiskIO{Device: words[0]}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch key {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.Reads = n
			case "wios":
				d.Writes = n
			}
		}
		out = append(out, d)
	}
	return out
}

// ReadPressures reads cpu, memory and io in a directory: with the suffix ".pressure" a cgroup's, with none those of /proc/pressure.
// It returns nil where the kernel does not measure them.
func ReadPressures(dir, suffix string) *Pressures {
	p := &Pressures{}
	for name, to := range map[string]*Pressure{"cpu": &p.CPU, "memory": &p.Memory, "io": &p.IO} {
		text, err := os.ReadFile(filepath.Join(dir, name+suffix))
		if err != nil {
			return nil
		}
		*to = parsePressure(string(text))
	}
	return p
}

func parsePressure(text string) (p Pressure) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line) // some avg10=0.00 avg60=0.00 avg300=0.00 total=0
		if len(words) == 0 {
			continue
		}
		var s Stall
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			number, _ := strconv.ParseFloat(value, 64)
			switch key {
			case "avg10":
				s.Avg10 = number
			case "avg60":
				s.Avg60 = number
			case "avg300":
				s.Avg300 = number
			case "total":
				s.Total, _ = strconv.ParseUint(value, 10, 64)
			}
		}
		switch words[0] {
		case "some":
			p.Some = s
		case "full":
			p.Full = s
		}
	}
	return p
}

// keys reads lines of "key value".
func keys(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				out[name] = n
			}
		}
	}
	return out
}
