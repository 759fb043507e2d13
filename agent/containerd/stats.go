package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"mgr/agent"
)

// Stats implements agent.Runtime. The cgroup's files are read directly: asking containerd costs a hop to the shim for the
// same numbers.
func (r *Runtime) Stats(_ context.Context, id string) (agent.Stats, error) {
	c, info, err := r.get(id)
	if err != nil {
		return agent.Stats{}, err
	}
	if info.State != agent.ContainerRunning {
		return agent.Stats{}, fmt.Errorf("statistics of container %s: it is not running", info.Name)
	}
	stats := agent.Stats{Time: time.Now()}
	if unified() {
		err = readStatsV2(c.cgroup, &stats)
	} else {
		err = readStatsV1(c.cgroup, &stats)
	}
	if err != nil {
		return agent.Stats{}, fmt.Errorf("statistics of container %s: %w", info.Name, err)
	}
	return stats, nil
}

func readStatsV1(cgroup string, s *agent.Stats) error {
	memory, err := cgroupFile("memory", cgroup, "memory.stat")
	if err != nil {
		return err
	}
	if s.CPUNanos, err = cgroupNumber("cpuacct", cgroup, "cpuacct.usage"); err != nil {
		return err
	}
	if s.MemoryUsage, err = cgroupNumber("memory", cgroup, "memory.usage_in_bytes"); err != nil {
		return err
	}
	if s.Pids, err = cgroupNumber("pids", cgroup, "pids.current"); err != nil {
		return err
	}
	s.MemoryBytes = workingSet(s.MemoryUsage, keyed(memory, "total_inactive_file"))
	return nil
}

func readStatsV2(cgroup string, s *agent.Stats) error {
	cpu, err := cgroupFile("", cgroup, "cpu.stat")
	if err != nil {
		return err
	}
	memory, err := cgroupFile("", cgroup, "memory.stat")
	if err != nil {
		return err
	}
	if s.MemoryUsage, err = cgroupNumber("", cgroup, "memory.current"); err != nil {
		return err
	}
	if s.Pids, err = cgroupNumber("", cgroup, "pids.current"); err != nil {
		return err
	}
	s.CPUNanos = keyed(cpu, "usage_usec") * 1000
	s.MemoryBytes = workingSet(s.MemoryUsage, keyed(memory, "inactive_file"))
	return nil
}

// workingSet is the memory that cannot be taken back at once, as kubelet and cAdvisor define it.
func workingSet(usage, inactiveFile uint64) uint64 {
	if inactiveFile > usage {
		return 0
	}
	return usage - inactiveFile
}

func cgroupNumber(controller, cgroup, file string) (uint64, error) {
	text, err := cgroupFile(controller, cgroup, file)
	if errors.Is(err, os.ErrNotExist) { // the controller is not there
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}
