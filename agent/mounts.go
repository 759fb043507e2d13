package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/env"
	"mgr/agent/volume"
)

// makeMounts lists the container's mounts: its volumes, the files that the agent makes for the pod, and the file for its
// last words.
func (j *startJob) makeMounts(vars *env.Variables) ([]specs.Mount, error) {
	a := j.w.a
	own := map[string]bool{}
	var out []specs.Mount
	for i := range j.spec.VolumeMounts {
		m, err := j.volumeMount(i, vars)
		if err != nil {
			return nil, err
		}
		own[filepath.Clean(m.Destination)] = true
		out = append(out, m)
	}
	files, err := a.podFiles(j.pod, j.ref, j.ips)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if !own[f.Destination] {
			out = append(out, f)
		}
	}
	if j.spec.TerminationMessagePath != "" {
		path, err := a.terminationFile(j.ref.UID, j.spec.Name, j.attempt)
		if err != nil {
			return nil, err
		}
		out = append(out, bind(path, j.spec.TerminationMessagePath, v1.VolumeMount{}))
	}
	return out, nil
}

// volumeMount is the container's mount of that index.
func (j *startJob) volumeMount(index int, vars *env.Variables) (specs.Mount, error) {
	vm := j.spec.VolumeMounts[index]
	mounted, ok := j.mounts[vm.Name]
	switch {
	case !ok:
		return specs.Mount{}, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, j.spec.Name)
	case mounted.Device:
		return specs.Mount{}, fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", vm.Name)
	}
	path, sub := mounted.Path, vm.SubPath
	if vm.SubPathExpr != "" {
		var err error
		if sub, err = expandSubPath(vm.SubPathExpr, vars); err != nil {
			return specs.Mount{}, err
		}
	}
	if sub != "" {
		var err error
		if path, err = j.w.a.volumes.SubPath(j.ref.UID, j.spec.Name, index, path, sub, true); err != nil {
			return specs.Mount{}, err
		}
	}
	if ptr.Deref(vm.MountPropagation, v1.MountPropagationNone) == v1.MountPropagationBidirectional {
		if err := volume.CheckShared(path); err != nil {
			return specs.Mount{}, fmt.Errorf("mountPropagation Bidirectional: %w", err)
		}
	}
	vm.ReadOnly = vm.ReadOnly || mounted.ReadOnly
	if vm.RecursiveReadOnly != nil {
		rro, err := recursiveReadOnly(&vm)
		if err != nil {
			return specs.Mount{}, err
		}
		vm.RecursiveReadOnly = &rro
	}
	target := vm.MountPath
	if !filepath.IsAbs(target) {
		target = "/" + target
	}
	return bind(path, target, vm), nil
}

// recursiveReadOnly settles what IfPossible means on this node: Enabled or Disabled.
func recursiveReadOnly(vm *v1.VolumeMount) (v1.RecursiveReadOnlyMode, error) {
	switch mode := ptr.Deref(vm.RecursiveReadOnly, v1.RecursiveReadOnlyDisabled); {
	case mode == v1.RecursiveReadOnlyDisabled:
		return mode, nil
	case volume.RecursiveReadOnly():
		return v1.RecursiveReadOnlyEnabled, nil
	case mode == v1.RecursiveReadOnlyEnabled:
		return "", fmt.Errorf("volumeMount %q at %s wants recursiveReadOnly, which this node's kernel does not have (Linux 5.12 does)", vm.Name, vm.MountPath)
	}
	return v1.RecursiveReadOnlyDisabled, nil
}

// mountStatuses reports the container's mounts: what the specification says, with recursive read-only as it came out. Nil: it
// has none.
func mountStatuses(c *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		s := v1.VolumeMountStatus{Name: vm.Name, MountPath: vm.MountPath, ReadOnly: vm.ReadOnly}
		if vm.ReadOnly {
			// One that could not be had has kept the container from starting; until then its status says that it is off.
			rro, err := recursiveReadOnly(vm)
			if err != nil {
				rro = v1.RecursiveReadOnlyDisabled
			}
			s.RecursiveReadOnly = &rro
		}
		out = append(out, s)
	}
	return out
}

// volumeDevices lists the block volumes that the container gets as devices, as ContainerSpec.Devices has them.
func (j *startJob) volumeDevices() ([]Device, error) {
	var out []Device
	for _, d := range j.spec.VolumeDevices {
		mounted, ok := j.mounts[d.Name]
		switch {
		case !ok:
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, j.spec.Name)
		case !mounted.Device:
			return nil, fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", d.Name)
		}
		access := "rwm"
		if mounted.ReadOnly {
			access = "r"
		}
		// The name that leads there may be a link; the runtime wants the device itself.
		device, err := filepath.EvalSymlinks(mounted.Path)
		if err != nil {
			return nil, fmt.Errorf("block volume %s: %w", d.Name, err)
		}
		if info, err := os.Stat(device); err != nil || info.Mode()&os.ModeDevice == 0 {
			return nil, fmt.Errorf("block volume %s: %s is no device", d.Name, mounted.Path)
		}
		out = append(out, Device{Host: device, Path: d.DevicePath, Access: access})
	}
	return out, nil
}

func expandSubPath(expr string, vars *env.Variables) (string, error) {
	var missing error
	out := env.Expand(expr, func(name string) (string, bool) {
		value, ok := vars.Lookup(name)
		if !ok {
			missing = fmt.Errorf("failed to expand subPath %q: variable %q is not set", expr, name)
		}
		return value, ok
	})
	return out, missing
}

func bind(source, target string, vm v1.VolumeMount) specs.Mount {
	options := []string{"rbind", "rprivate", "rw"}
	switch ptr.Deref(vm.MountPropagation, v1.MountPropagationNone) {
	case v1.MountPropagationHostToContainer:
		options[1] = "rslave"
	case v1.MountPropagationBidirectional:
		options[1] = "rshared"
	}
	if vm.ReadOnly {
		options[2] = "ro"
		if ptr.Deref(vm.RecursiveReadOnly, v1.RecursiveReadOnlyDisabled) == v1.RecursiveReadOnlyEnabled {
			options[2] = "rro"
		}
	}
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: options}
}
