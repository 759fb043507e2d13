package auth

import (
	corev1 "k8s.io/api/core/v1"
)

// PodRefersTo says whether pod uses the secret, config map or service account of that name in its namespace; resource
// is "secrets", "configmaps" or "serviceaccounts".
func PodRefersTo(pod *corev1.Pod, resource, name string) bool {
	switch resource {
	case "serviceaccounts":
		return pod.Spec.ServiceAccountName == name
	case "secrets":
		return refersToSecret(&pod.Spec, name)
	case "configmaps":
		return refersToConfigMap(&pod.Spec, name)
	}
	return false
}

func refersToSecret(spec *corev1.PodSpec, name string) bool {
	for _, s := range spec.ImagePullSecrets {
		if s.Name == name {
			return true
		}
	}
	for i := range spec.Volumes {
		if volumeSecret(&spec.Volumes[i].VolumeSource, name) {
			return true
		}
	}
	return anyEnv(spec, func(e *corev1.EnvVar, from *corev1.EnvFromSource) bool {
		if e != nil {
			return e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Name == name
		}
		return from.SecretRef != nil && from.SecretRef.Name == name
	})
}

func refersToConfigMap(spec *corev1.PodSpec, name string) bool {
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		if v.ConfigMap != nil && v.ConfigMap.Name == name {
			return true
		}
		for _, p := range projections(v) {
			if p.ConfigMap != nil && p.ConfigMap.Name == name {
				return true
			}
		}
	}
	return anyEnv(spec, func(e *corev1.EnvVar, from *corev1.EnvFromSource) bool {
		if e != nil {
			return e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil && e.ValueFrom.ConfigMapKeyRef.Name == name
		}
		return from.ConfigMapRef != nil && from.ConfigMapRef.Name == name
	})
}

func projections(v *corev1.Volume) []corev1.VolumeProjection {
	if v.Projected == nil {
		return nil
	}
	return v.Projected.Sources
}

func volumeSecret(v *corev1.VolumeSource, name string) bool {
	local := func(r *corev1.LocalObjectReference) bool { return r != nil && r.Name == name }
	switch {
	case v.Secret != nil:
		return v.Secret.SecretName == name
	case v.Projected != nil:
		for _, p := range v.Projected.Sources {
			if p.Secret != nil && p.Secret.Name == name {
				return true
			}
		}
	case v.CSI != nil:
		return local(v.CSI.NodePublishSecretRef)
	case v.FlexVolume != nil:
		return local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		return local(v.ISCSI.SecretRef)
	case v.CephFS != nil:
		return local(v.CephFS.SecretRef)
	case v.RBD != nil:
		return local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		return local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		return local(v.StorageOS.SecretRef)
	case v.AzureFile != nil:
		return v.AzureFile.SecretName == name
	}
	return false
}

// anyEnv asks match about each environment variable and each source of variables, of all containers of any sort; one of
// the two arguments is nil.
func anyEnv(spec *corev1.PodSpec, match func(*corev1.EnvVar, *corev1.EnvFromSource) bool) bool {
	container := func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if match(&env[i], nil) {
				return true
			}
		}
		for i := range from {
			if match(nil, &from[i]) {
				return true
			}
		}
		return false
	}
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if container(list[i].Env, list[i].EnvFrom) {
				return true
			}
		}
	}
	for i := range spec.EphemeralContainers {
		if container(spec.EphemeralContainers[i].Env, spec.EphemeralContainers[i].EnvFrom) {
			return true
		}
	}
	return false
}
