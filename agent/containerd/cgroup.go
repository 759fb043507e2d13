package containerd

import (
	"context"
	"fmt"

	"mgr/agent"
	"mgr/agent/cgroup"
)

// SetCgroup implements agent.Runtime.
func (r *Runtime) SetCgroup(_ context.Context, name string, l cgroup.Limits) error {
	if name == "" {
		return nil
	}
	if !r.cgroups.Exists(name) { // those of pods do
		if err := r.noteCgroup(name); err != nil {
			return err
		}
		if err := r.cgroups.Make(name); err != nil {
			return err
		}
	}
	return r.cgroups.Set(name, l)
}

// Cgroup implements agent.Runtime.
func (r *Runtime) Cgroup(_ context.Context, name string) (agent.CgroupState, error) {
	use, err := r.cgroups.Usage(name)
	if err != nil {
		return agent.CgroupState{}, err
	}
	memory, quota, err := r.cgroups.Limited(name)
	return agent.CgroupState{Usage: use, MemoryLimit: memory, CPUQuota: quota}, err
}

// UpdateContainer implements agent.Runtime. The files are written directly: runc would write the same, and nothing reads again
// what it notes of them.
func (r *Runtime) UpdateContainer(_ context.Context, id string, l cgroup.Limits) error {
	c, info, err := r.get(id)
	if err != nil {
		return err
	}
	if info.State != agent.ContainerRunning && info.State != agent.ContainerCreated {
		return fmt.Errorf("change the limits of container %s: it is not running", info.Name)
	}
	if err := r.cgroups.Set(c.cgroup, l); err != nil {
		return fmt.Errorf("change the limits of container %s: %w", info.Name, err)
	}
	return nil
}
