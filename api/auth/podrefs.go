package auth

import (
	corev1 "k8s.io/api/core/v1"
)

// PodRefersToAny says whether a pod's spec uses an object of the resource: "secrets", "configmaps", "serviceaccounts",
// "persistentvolumeclaims" or "resourceclaims".
func PodRefersToAny(pod *corev1.Pod, resource string) bool {
	found := false
	podReferences(pod, func(r, _ string) { found = found || r == resource })
	return found
}

// podReferences calls f with the resource and the name of each object that a pod uses, in its namespace; one that is used
// twice comes twice.
func podReferences(pod *corev1.Pod, f func(resource, name string)) {
	named := func(resource, name string) {
		if name != "" {
			f(resource, name)
		}
	}
	spec := &pod.Spec
	named("serviceaccounts", spec.ServiceAccountName)
	for _, s := range spec.ImagePullSecrets {
		named("secrets", s.Name)
	}
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			envReferences(list[i].Env, list[i].EnvFrom, named)
		}
	}
	for i := range spec.EphemeralContainers {
		envReferences(spec.EphemeralContainers[i].Env, spec.EphemeralContainers[i].EnvFrom, named)
	}
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		if v.Ephemeral != nil {
			named("persistentvolumeclaims", pod.Name+"-"+v.Name)
		}
		volumeReferences(&v.VolumeSource, named)
	}
	claimReferences(pod, named)
}

func envReferences(env []corev1.EnvVar, from []corev1.EnvFromSource, named func(resource, name string)) {
	for i := range env {
		v := env[i].ValueFrom
		if v == nil {
			continue
		}
		if v.SecretKeyRef != nil {
			named("secrets", v.SecretKeyRef.Name)
		}
		if v.ConfigMapKeyRef != nil {
			named("configmaps", v.ConfigMapKeyRef.Name)
		}
	}
	for i := range from {
		if from[i].SecretRef != nil {
			named("secrets", from[i].SecretRef.Name)
		}
		if from[i].ConfigMapRef != nil {
			named("configmaps", from[i].ConfigMapRef.Name)
		}
	}
}

func volumeReferences(v *corev1.VolumeSource, named func(resource, name string)) {
	local := func(r *corev1.LocalObjectReference) {
		if r != nil {
			named("secrets", r.Name)
		}
	}
	switch {
	case v.PersistentVolumeClaim != nil:
		named("persistentvolumeclaims", v.PersistentVolumeClaim.ClaimName)
	case v.ConfigMap != nil:
		named("configmaps", v.ConfigMap.Name)
	case v.Secret != nil:
		named("secrets", v.Secret.SecretName)
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			p := &v.Projected.Sources[i]
			if p.Secret != nil {
				named("secrets", p.Secret.Name)
			}
			if p.ConfigMap != nil {
				named("configmaps", p.ConfigMap.Name)
			}
		}
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	case v.AzureFile != nil:
		named("secrets", v.AzureFile.SecretName)
	}
}

// claimReferences are the resource claims: named in the spec, or made for the pod, which its status says.
func claimReferences(pod *corev1.Pod, named func(resource, name string)) {
	for i := range pod.Spec.ResourceClaims {
		if c := &pod.Spec.ResourceClaims[i]; c.ResourceClaimName != nil {
			named("resourceclaims", *c.ResourceClaimName)
		}
	}
	for i := range pod.Status.ResourceClaimStatuses {
		if s := &pod.Status.ResourceClaimStatuses[i]; s.ResourceClaimName != nil {
			named("resourceclaims", *s.ResourceClaimName)
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		named("resourceclaims", s.ResourceClaimName)
	}
}

// volumeSecrets calls f with the namespace and the name of each secret that an agent needs to mount a volume.
func volumeSecrets(pv *corev1.PersistentVolume, f func(namespace, name string)) {
	named := func(r *corev1.SecretReference, otherwise string) {
		switch {
		case r == nil || r.Name == "":
		case r.Namespace != "":
			f(r.Namespace, r.Name)
		default:
			f(otherwise, r.Name)
		}
	}
	claim := ""
	if pv.Spec.ClaimRef != nil {
		claim = pv.Spec.ClaimRef.Namespace
	}
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.AzureFile != nil:
		r := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			r.Namespace = *s.AzureFile.SecretNamespace
		}
		named(r, claim)
	case s.CephFS != nil:
		named(s.CephFS.SecretRef, claim)
	case s.Cinder != nil:
		named(s.Cinder.SecretRef, "")
	case s.FlexVolume != nil:
		named(s.FlexVolume.SecretRef, claim)
	case s.RBD != nil:
		named(s.RBD.SecretRef, claim)
	case s.ScaleIO != nil:
		named(s.ScaleIO.SecretRef, claim)
	case s.ISCSI != nil:
		named(s.ISCSI.SecretRef, claim)
	case s.StorageOS != nil && s.StorageOS.SecretRef != nil:
		named(&corev1.SecretReference{Namespace: s.StorageOS.SecretRef.Namespace, Name: s.StorageOS.SecretRef.Name}, "")
	case s.CSI != nil:
		named(s.CSI.NodePublishSecretRef, "")
		named(s.CSI.NodeStageSecretRef, "")
		named(s.CSI.NodeExpandSecretRef, "")
	}
}
