package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"mgr/agent/devices"
)

// newDevices opens the manager of the devices that plug-ins offer.
func (a *Agent) newDevices() (*devices.Manager, error) {
	return devices.New(devices.Config{
		Dir: a.cfg.DevicePluginDir, Log: a.log, Changed: a.stir, Health: a.deviceHealth,
		Active: func(uid string) bool {
			a.mu.Lock()
			w, settled := a.workers[uid], a.settled
			a.mu.Unlock()
			return !settled || w != nil && w.look().resources
		},
	})
}

// runDevices serves device plug-ins; a node without them is a node still.
func (a *Agent) runDevices(ctx context.Context) {
	if err := a.devices.Run(ctx); err != nil {
		a.log.Error("device plug-ins are not served", "err", err)
	}
}

// deviceHealth wakes the workers of pods whose devices' health changed.
func (a *Agent) deviceHealth(uids []string) {
	for _, uid := range uids {
		if w := a.worker(uid); w != nil {
			w.tell(func(*inbox) {})
		}
	}
}

var errRefused = errors.New("the pod was refused")

// allocate gives the pod its devices; one that this node cannot serve is refused. A pod that already runs is left alone.
func (w *worker) allocate(ctx context.Context, pod *v1.Pod) error {
	err := w.a.devices.Allocate(ctx, pod)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return err
	case len(w.a.lister.of(w.uid)) > 0:
		w.log.Warn("a running pod's devices", "err", err)
	default:
		w.fail("UnexpectedAdmissionError", fmt.Sprintf("Pod was rejected: Allocate failed due to %v, which is unexpected", err), withEvent(v1.EventTypeWarning))
		return errRefused
	}
	return nil
}

// giveDevices adds to a container what the plug-ins of its devices want in it.
func (j *startJob) giveDevices(ctx context.Context, s *ContainerSpec) error {
	given, err := j.w.a.devices.Start(ctx, j.ref.UID, j.spec)
	if err != nil {
		return err
	}
	var env []string
	for _, name := range slices.Sorted(maps.Keys(given.Envs)) {
		env = append(env, name+"="+given.Envs[name])
	}
	s.Env = append(env, s.Env...) // the pod's own word comes later and counts
	for _, m := range given.Mounts {
		options := []string{"rbind", "rprivate", "rw"}
		if m.ReadOnly {
			options[2] = "ro"
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: m.ContainerPath, Type: "bind", Source: m.HostPath, Options: options})
	}
	for _, d := range given.Devices {
		s.Devices = append(s.Devices, Device{Host: d.HostPath, Path: d.ContainerPath, Access: d.Permissions})
	}
	if len(given.Annotations) > 0 {
		s.Annotations = given.Annotations
	}
	return nil
}

// deviceStatus adds the health of containers' devices.
func (a *Agent) deviceStatus(uid string, s *v1.PodStatus) {
	for i := range s.ContainerStatuses {
		s.ContainerStatuses[i].AllocatedResourcesStatus = a.devices.Status(uid, s.ContainerStatuses[i].Name)
	}
}
