package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/utils/ptr"

	"mgr/agent/cgroup"
	"mgr/agent/env"
)

// containerHash changes when a container must be replaced; only the image of a running pod can change.
func containerHash(c *v1.Container) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\x00%s", c.Name, c.Image)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

func (a *Agent) sandboxSpec(pod *v1.Pod, ref PodRef) SandboxSpec {
	s := SandboxSpec{
		Pod: ref, Hostname: a.hostname(pod),
		HostNetwork: pod.Spec.HostNetwork, HostIPC: pod.Spec.HostIPC, HostPID: pod.Spec.HostPID,
		SharePID:     ptr.Deref(pod.Spec.ShareProcessNamespace, false),
		CgroupParent: a.podCgroup(pod, ref.UID), Limits: a.podLimits(pod),
	}
	if sc := pod.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		s.Sysctls = map[string]string{}
		for _, c := range sc.Sysctls {
			s.Sysctls[sysctl.NormalizeName(c.Name)] = c.Value
		}
	}
	return s
}

// containerSpec resolves everything the runtime needs for one instance.
func (j *startJob) containerSpec(ctx context.Context) (ContainerSpec, error) {
	a, c := j.w.a, j.spec
	vars, err := a.environment(ctx, j)
	if err != nil {
		return ContainerSpec{}, err
	}
	mounts, err := j.makeMounts(vars)
	if err != nil {
		return ContainerSpec{}, err
	}
	devices, err := j.volumeDevices()
	if err != nil {
		return ContainerSpec{}, err
	}
	s := ContainerSpec{
		Pod: j.ref, Name: c.Name, Attempt: j.attempt, Image: c.Image, ImageID: j.imageID,
		Command: env.ExpandAll(c.Command, vars.Lookup), Args: env.ExpandAll(c.Args, vars.Lookup),
		Env: vars.List(), WorkingDir: c.WorkingDir, Mounts: mounts,
		LogPath: filepath.Join(a.logDir(j.ref), c.Name, strconv.Itoa(j.attempt)+".log"),
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		Hash: containerHash(c), Kind: j.role.String(),
		Devices: devices, OOMScoreAdj: oomScoreAdj(j.pod, c, a.room().Capacity.Memory().Value()),
	}
	if s.Target, err = j.target(); err != nil {
		return s, err
	}
	if err := os.MkdirAll(filepath.Dir(s.LogPath), 0o755); err != nil {
		return s, fmt.Errorf("making the log directory: %w", err)
	}
	limit(&s, containerLimits(j.pod, c))
	if err := a.security(&s, j.pod, c); err != nil {
		return s, err
	}
	if err := j.giveDevices(ctx, &s); err != nil {
		return s, err
	}
	return s, j.checkUser(ctx, &s)
}

// target is the container whose processes an ephemeral container asks to see. A pod with one PID namespace needs none.
func (j *startJob) target() (string, error) {
	i := slices.IndexFunc(j.pod.Spec.EphemeralContainers, func(e v1.EphemeralContainer) bool { return e.Name == j.spec.Name })
	if i < 0 || j.pod.Spec.EphemeralContainers[i].TargetContainerName == "" || j.pod.Spec.HostPID || ptr.Deref(j.pod.Spec.ShareProcessNamespace, false) {
		return "", nil
	}
	name := j.pod.Spec.EphemeralContainers[i].TargetContainerName
	for _, c := range j.w.a.lister.of(j.ref.UID) {
		if c.Name == name && c.State == ContainerRunning {
			return c.ID, nil
		}
	}
	return "", fmt.Errorf("unable to find target container %s: it is not running", name)
}

// limit gives the container its share of the node.
func limit(s *ContainerSpec, l cgroup.Limits) {
	s.CPUShares, s.CPUQuota, s.CPUPeriod, s.MemoryLimit, s.HugePages, s.Unified = l.CPUShares, l.CPUQuota, l.CPUPeriod, l.Memory, l.HugePages, l.Unified
}

func (a *Agent) environment(ctx context.Context, j *startJob) (*env.Variables, error) {
	if !a.servicesDone() && !j.w.static { // a static pod may be what the masters wait for
		return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	services, err := a.services.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("listing services: %w", err)
	}
	links := ptr.Deref(j.pod.Spec.EnableServiceLinks, true)
	var mine []*v1.Service
	for _, s := range services {
		master := s.Namespace == v1.NamespaceDefault && s.Name == "kubernetes"
		if master || links && s.Namespace == j.pod.Namespace {
			mine = append(mine, s)
		}
	}
	ips := j.ips
	if j.pod.Spec.HostNetwork {
		ips = a.cfg.NodeIPs
	}
	facts := a.facts(j.pod, ips)
	facts.Open = func(volume, path string) (io.ReadCloser, error) {
		m, ok := j.mounts[volume]
		if !ok {
			return nil, fmt.Errorf("cannot find the volume %q", volume)
		}
		return os.OpenInRoot(m.Path, path)
	}
	return env.For(ctx, j.pod, j.spec, env.Services(mine), facts, a.objects)
}
