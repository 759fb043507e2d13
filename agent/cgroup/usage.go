package cgroup

import "fmt"

// Usage is what a cgroup with those below it uses.
type Usage struct {
	CPUNanos   uint64 // cumulative
	Memory     uint64 // bytes charged
	WorkingSet uint64 // of Memory, what cannot be taken back at once: kubelet's and cAdvisor's definition
	Pids       uint64
}

// Usage reads what a cgroup uses.
func (f *FS) Usage(name string) (Usage, error) {
	u, err := f.usage(name)
	if err != nil {
		return Usage{}, fmt.Errorf("read the use of cgroup %s: %w", name, err)
	}
	return u, nil
}

func (f *FS) usage(name string) (u Usage, err error) {
	memory, cpu, inactive := "memory.usage_in_bytes", "", "total_inactive_file"
	if f.unified {
		memory, inactive = "memory.current", "inactive_file"
		if cpu, err = f.Read("", name, "cpu.stat"); err != nil {
			return u, err
		}
		u.CPUNanos = Keyed(cpu, "usage_usec") * 1000
	} else if u.CPUNanos, err = f.Number("cpuacct", name, "cpuacct.usage"); err != nil {
		return u, err
	}
	stat, err := f.Read("memory", name, "memory.stat")
	if err != nil {
		return u, err
	}
	if u.Memory, err = f.Number("memory", name, memory); err != nil {
		return u, err
	}
	if u.Pids, err = f.Number("pids", name, "pids.current"); err != nil {
		return u, err
	}
	if file := Keyed(stat, inactive); file < u.Memory {
		u.WorkingSet = u.Memory - file
	}
	return u, nil
}

// OOMKills is how many processes of the cgroup the kernel has killed for want of memory, be it below the cgroup's own limit or
// one above it; 0 if the cgroup is gone.
func (f *FS) OOMKills(name string) uint64 {
	file := "memory.oom_control"
	if f.unified {
		file = "memory.events"
	}
	text, err := f.Read("memory", name, file)
	if err != nil {
		return 0
	}
	return Keyed(text, "oom_kill")
}
