package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// claimRecords is the directory, in a pod's, of what its claims turned out to be.
const claimRecords = "claims"

// protection is the finalizer by which a claim stays while a pod uses it.
const protection = "kubernetes.io/pvc-protection"

// unprocessed: it is not known yet what the volume is.
type unprocessed struct{ err error }

func (u *unprocessed) Error() string { return u.err.Error() }
func (u *unprocessed) Unwrap() error { return u.err }

// resolved is a claim of a pod that was found and made ready. It is written down, so that it is done once for each pod, and
// a pod can go on with it while no master answers: what a claim in use is bound to does not change.
type resolved struct {
	Volume   v1.PersistentVolume `json:"volume"`
	ReadOnly bool                `json:"readOnly,omitempty"`
}

// claim gives a pod the persistent volume that its claim is bound to.
func (m *Manager) claim(ctx context.Context, pod *v1.Pod, v *v1.Volume) (Mount, error) {
	record := filepath.Join(m.PodDir(string(pod.UID)), claimRecords, v.Name+".json")
	var r resolved
	if text, err := os.ReadFile(record); err == nil && json.Unmarshal(text, &r) == nil {
		return r.mount(), nil
	}
	found, err := m.resolve(ctx, pod, v)
	if err != nil {
		return Mount{}, &unprocessed{err}
	}
	if err := m.attach(pod, found); err != nil {
		return Mount{}, fmt.Errorf("persistent volume %q: %w", found.Volume.Name, err)
	}
	return found.mount(), found.write(record)
}

func (r *resolved) mount() Mount {
	mount := Mount{ReadOnly: r.ReadOnly, Device: block(&r.Volume)}
	switch s := &r.Volume.Spec.PersistentVolumeSource; {
	case s.HostPath != nil:
		mount.Path = s.HostPath.Path
	case s.Local != nil:
		mount.Path = s.Local.Path
	}
	return mount
}

func (r *resolved) write(path string) error {
	r.Volume.ManagedFields = nil
	text, err := json.Marshal(r)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o750)
	}
	if err == nil {
		err = os.WriteFile(path+".tmp", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("writing down what a claim is bound to: %w", err)
	}
	return nil
}

func block(pv *v1.PersistentVolume) bool {
	return ptr.Deref(pv.Spec.VolumeMode, v1.PersistentVolumeFilesystem) == v1.PersistentVolumeBlock
}

// resolve asks the API what the claim is bound to.
func (m *Manager) resolve(ctx context.Context, pod *v1.Pod, v *v1.Volume) (*resolved, error) {
	name, readOnly := "", false
	if c := v.PersistentVolumeClaim; c != nil {
		name, readOnly = c.ClaimName, c.ReadOnly
	} else {
		name = ephemeral.VolumeClaimName(pod, v)
	}
	fail := func(err error) (*resolved, error) {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	claim, err := m.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fail(fmt.Errorf("failed to fetch PVC from API server: %w", err))
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, err
		}
	}
	switch {
	case claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, protection):
		return fail(errors.New("PVC is being deleted"))
	case claim.Status.Phase != v1.ClaimBound:
		return fail(errors.New("PVC is not bound"))
	case claim.Spec.VolumeName == "":
		return fail(errors.New("PVC has empty pvc.Spec.VolumeName"))
	}
	pv, err := m.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return fail(fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err))
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return fail(fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef does not point to claim.UID %s", pv.Name, claim.UID))
	}
	return &resolved{*pv, readOnly}, usedAs(pod, v.Name, block(pv))
}

// usedAs refuses containers that want a volume of the other mode.
func usedAs(pod *v1.Pod, volume string, block bool) error {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if block && slices.ContainsFunc(list[i].VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == volume }) {
				return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", volume)
			}
			if !block && slices.ContainsFunc(list[i].VolumeDevices, func(d v1.VolumeDevice) bool { return d.Name == volume }) {
				return fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", volume)
			}
		}
	}
	return nil
}

// attach makes a persistent volume ready for the pod.
func (m *Manager) attach(pod *v1.Pod, r *resolved) error {
	pv := &r.Volume
	if m.NodeLabels != nil {
		if err := storage.CheckNodeAffinity(pv, m.NodeLabels()); err != nil {
			return fmt.Errorf("the volume's node affinity does not allow this node: %w", err)
		}
	}
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.HostPath != nil && block(pv):
		return errors.New("a hostPath volume cannot be of volumeMode Block; a local volume can")
	case s.HostPath != nil:
		return checkHostPath(s.HostPath)
	case s.Local != nil:
		return m.local(pod, r)
	}
	return fmt.Errorf("this node has no driver for volumes of type %s; it mounts hostPath and local ones", setField(pv.Spec.PersistentVolumeSource))
}

// local prepares a directory, a file or a device of this node.
func (m *Manager) local(pod *v1.Pod, r *resolved) error {
	path := r.Volume.Spec.Local.Path
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("path %q does not exist", path)
	}
	if err != nil {
		return fmt.Errorf("local volume: %w", err)
	}
	device := info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	switch {
	case block(&r.Volume) && !device:
		return fmt.Errorf("path %q is no block device, but the volume's volumeMode is Block", path)
	case block(&r.Volume):
		return nil
	case device:
		return fmt.Errorf("path %q is a block device: mount it and give the mount point as the local volume's path, or set volumeMode to Block", path)
	}
	gid := fsGroup(pod)
	if gid < 0 || r.ReadOnly {
		return nil
	}
	return applyGroup(path, gid, false, pod.Spec.SecurityContext.FSGroupChangePolicy)
}

// noDriver says which kind of volume it is that this node cannot make.
func noDriver(v *v1.Volume) error {
	if v.CSI != nil {
		return fmt.Errorf("this node has no driver for the CSI volume of %s", v.CSI.Driver)
	}
	return fmt.Errorf("this kind of volume, %s, is not supported by this node: it has no driver for it", setField(v.VolumeSource))
}

// setField names the one field that is set of a struct of pointers, as its JSON does.
func setField(source any) string {
	s := reflect.ValueOf(source)
	for i := range s.NumField() {
		if f := s.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(s.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unknown"
}
