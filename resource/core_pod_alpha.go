package resource

import corev1 "k8s.io/api/core/v1"

// alphaPod is a set of features that Kubernetes has switched off by default. Their fields are dropped from what is sent,
// except where the stored pod has them already.
type alphaPod uint8

const (
	stopSignals alphaPod = 1 << iota
	probeProtocols
	probeTLS
	bindMountOptions
	emptyDirModes
	volumeUsers
	schedulingGroups
	evictionResponders
)

// dropAlphaPod drops them from spec; old is nil on create.
func dropAlphaPod(spec, old *corev1.PodSpec) {
	if spec == nil {
		return
	}
	found := (&alphaFields{}).of(spec)
	if found == 0 {
		return
	}
	if old != nil {
		found &^= (&alphaFields{}).of(old)
	}
	if found != 0 {
		(&alphaFields{drop: found}).of(spec)
	}
}

// alphaFields walks over the fields of alpha features, drops those of the features given, and tells what it has found.
type alphaFields struct{ found, drop alphaPod }

func alpha[T any](w *alphaFields, feature alphaPod, p **T) {
	if *p == nil {
		return
	}
	w.found |= feature
	if w.drop&feature != 0 {
		*p = nil
	}
}

func (w *alphaFields) of(s *corev1.PodSpec) alphaPod {
	alpha(w, schedulingGroups, &s.SchedulingGroup)
	if len(s.EvictionResponders) > 0 {
		w.found |= evictionResponders
		if w.drop&evictionResponders != 0 {
			s.EvictionResponders = nil
		}
	}
	for i := range s.Volumes {
		w.volume(&s.Volumes[i])
	}
	for i := range s.InitContainers {
		w.container(&s.InitContainers[i])
	}
	for i := range s.Containers {
		w.container(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		w.container((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return w.found
}

func (w *alphaFields) container(c *corev1.Container) {
	for i := range c.VolumeMounts {
		if m := &c.VolumeMounts[i]; len(m.BindMountOptions) > 0 {
			w.found |= bindMountOptions
			if w.drop&bindMountOptions != 0 {
				m.BindMountOptions = nil
			}
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		w.http(p.HTTPGet)
		if p.GRPC != nil {
			alpha(w, probeTLS, &p.GRPC.Mode)
		}
	}
	l := c.Lifecycle
	if l == nil {
		return
	}
	for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
		if h != nil {
			w.http(h.HTTPGet)
		}
	}
	if l.StopSignal != nil {
		alpha(w, stopSignals, &l.StopSignal)
		if *l == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	}
}

func (w *alphaFields) http(h *corev1.HTTPGetAction) {
	if h != nil {
		alpha(w, probeProtocols, &h.Protocol)
	}
}

// volume: who owns the files in it, and the mode of an empty one.
func (w *alphaFields) volume(v *corev1.Volume) {
	switch {
	case v.EmptyDir != nil:
		alpha(w, emptyDirModes, &v.EmptyDir.Mode)
	case v.Secret != nil:
		alpha(w, volumeUsers, &v.Secret.DefaultUser)
		w.keys(v.Secret.Items)
	case v.ConfigMap != nil:
		alpha(w, volumeUsers, &v.ConfigMap.DefaultUser)
		w.keys(v.ConfigMap.Items)
	case v.DownwardAPI != nil:
		alpha(w, volumeUsers, &v.DownwardAPI.DefaultUser)
		w.files(v.DownwardAPI.Items)
	case v.Projected != nil:
		alpha(w, volumeUsers, &v.Projected.DefaultUser)
		for i := range v.Projected.Sources {
			w.projection(&v.Projected.Sources[i])
		}
	}
}

func (w *alphaFields) projection(p *corev1.VolumeProjection) {
	switch {
	case p.Secret != nil:
		w.keys(p.Secret.Items)
	case p.DownwardAPI != nil:
		w.files(p.DownwardAPI.Items)
	case p.ConfigMap != nil:
		w.keys(p.ConfigMap.Items)
	case p.ServiceAccountToken != nil:
		alpha(w, volumeUsers, &p.ServiceAccountToken.User)
	case p.ClusterTrustBundle != nil:
		alpha(w, volumeUsers, &p.ClusterTrustBundle.User)
	case p.PodCertificate != nil:
		alpha(w, volumeUsers, &p.PodCertificate.User)
	}
}

func (w *alphaFields) keys(items []corev1.KeyToPath) {
	for i := range items {
		alpha(w, volumeUsers, &items[i].User)
	}
}

func (w *alphaFields) files(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		alpha(w, volumeUsers, &items[i].User)
	}
}
