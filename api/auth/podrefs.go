package auth

import (
	corev1 "k8s.io/api/core/v1"
)

// PodRefersTo says whether pod uses the secret, config map or service account of that name in its namespace; resource
// is "secrets", "configmaps" or "serviceaccounts".
func PodRefersTo(pod *corev1.Pod, resource, name string) bool {
	same := func(n string) bool { return n == name }
	switch resource {
	case "serviceaccounts":
		return same(pod.Spec.ServiceAccountName)
	case "secrets":
		return anySecret(&pod.Spec, same)
	case "configmaps":
		return anyConfigMap(&pod.Spec, same)
	}
	return false
}

// PodRefersToAny says whether pod uses any secret or config map at all.
func PodRefersToAny(pod *corev1.Pod, resource string) bool {
	any := func(string) bool { return true }
	if resource == "secrets" {
		return anySecret(&pod.Spec, any)
	}
	return anyConfigMap(&pod.Spec, any)
}

func anySecret(spec *corev1.PodSpec, match func(name string) bool) bool {
	for _, s := range spec.ImagePullSecrets {
		if match(s.Name) {
			return true
		}
	}
	for i := range spec.Volumes {
		if volumeSecret(&spec.Volumes[i].VolumeSource, match) {
			return true
		}
	}
	return anyEnv(spec, func(v *corev1.EnvVarSource) bool {
		return v.SecretKeyRef != nil && match(v.SecretKeyRef.Name)
	}, func(from *corev1.EnvFromSource) bool {
		return from.SecretRef != nil && match(from.SecretRef.Name)
	})
}

func anyConfigMap(spec *corev1.PodSpec, match func(name string) bool) bool {
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		if v.ConfigMap != nil && match(v.ConfigMap.Name) {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, p := range v.Projected.Sources {
			if p.ConfigMap != nil && match(p.ConfigMap.Name) {
				return true
			}
		}
	}
	return anyEnv(spec, func(v *corev1.EnvVarSource) bool {
		return v.ConfigMapKeyRef != nil && match(v.ConfigMapKeyRef.Name)
	}, func(from *corev1.EnvFromSource) bool {
		return from.ConfigMapRef != nil && match(from.ConfigMapRef.Name)
	})
}

func volumeSecret(v *corev1.VolumeSource, match func(name string) bool) bool {
	local := func(r *corev1.LocalObjectReference) bool { return r != nil && match(r.Name) }
	switch {
	case v.Secret != nil:
		return match(v.Secret.SecretName)
	case v.Projected != nil:
		for _, p := range v.Projected.Sources {
			if p.Secret != nil && match(p.Secret.Name) {
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
		return match(v.AzureFile.SecretName)
	}
	return false
}

// anyEnv asks about the source of each environment variable, single or many at once, of all containers of any sort.
func anyEnv(spec *corev1.PodSpec, one func(*corev1.EnvVarSource) bool, many func(*corev1.EnvFromSource) bool) bool {
	container := func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if env[i].ValueFrom != nil && one(env[i].ValueFrom) {
				return true
			}
		}
		for i := range from {
			if many(&from[i]) {
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
