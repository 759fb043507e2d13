package resource

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checkVolumes fills v.volumes with the valid volumes by name: mounts refer to those.
func (v *podSpecValidator) checkVolumes(path *field.Path) {
	claims := map[string]bool{} // that the ephemeral volumes of this pod create
	for _, volume := range v.spec.Volumes {
		if volume.Ephemeral != nil && v.podName != "" {
			claims[v.podName+"-"+volume.Name] = true
		}
	}
	v.volumes = make(map[string]*corev1.VolumeSource, len(v.spec.Volumes))
	for i := range v.spec.Volumes {
		volume, at := &v.spec.Volumes[i], path.Index(i)
		before := len(v.list)
		v.oneSource(at, v.sources(volume, at))
		if v.given(at.Child("name"), volume.Name) {
			v.dnsLabel(at.Child("name"), volume.Name)
		}
		if v.volumes[volume.Name] != nil {
			v.add(field.Duplicate(at.Child("name"), volume.Name))
		}
		if len(v.list) == before {
			v.volumes[volume.Name] = &volume.VolumeSource
		}
		if c := volume.PersistentVolumeClaim; c != nil && claims[c.ClaimName] {
			v.invalid(at.Child("persistentVolumeClaim", "claimName"), c.ClaimName, "must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// keys are the keys of a Secret or ConfigMap that become files.
func (v *podSpecValidator) keys(items []corev1.KeyToPath, mode *int32, at *field.Path) {
	v.fileMode(at.Child("defaultMode"), mode)
	for i, item := range items {
		p := at.Child("items").Index(i)
		v.given(p.Child("key"), item.Key)
		v.given(p.Child("path"), item.Path)
		v.localPath(item.Path, p.Child("path"))
		v.fileMode(p.Child("mode"), item.Mode)
		v.owner(p.Child("user"), item.User)
	}
}

// owner of a file, by number.
func (f *findings) owner(at *field.Path, user *int64) {
	if user != nil {
		f.invalid(at, *user, validation.IsValidUserID(*user)...)
	}
}

// downwardFile: findings stand at the volume, not at the item, as in Kubernetes.
func (v *podSpecValidator) downwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) {
	v.given(at.Child("path"), f.Path)
	v.localPath(f.Path, at.Child("path"))
	switch {
	case f.FieldRef != nil:
		v.fieldRef(f.FieldRef, fileFieldPaths, at.Child("fieldRef"))
		if f.ResourceFieldRef != nil {
			v.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		v.resourceFieldRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))
	default:
		v.required(at, "one of fieldRef and resourceFieldRef is required")
	}
	v.fileMode(at.Child("mode"), f.Mode)
	v.owner(at.Child("user"), f.User)
}

// projections put several sources into one directory: no two may give the same file.
func (v *podSpecValidator) projections(sources []corev1.VolumeProjection, at *field.Path) {
	files := seen{}
	unique := func(file, of string) {
		if file != "" && files.again(file) {
			v.invalid(at, of, "conflicting duplicate paths")
		}
	}
	for i, s := range sources {
		count, src := 0, at.Child("sources").Index(i)
		if s.Secret != nil {
			count++
			v.given(src.Child("secret", "name"), s.Secret.Name)
			v.keys(s.Secret.Items, nil, src.Child("secret"))
			for _, item := range s.Secret.Items {
				unique(item.Path, s.Secret.Name)
			}
		}
		if s.ConfigMap != nil {
			count++
			v.given(src.Child("configMap", "name"), s.ConfigMap.Name)
			v.keys(s.ConfigMap.Items, nil, src.Child("configMap"))
			for _, item := range s.ConfigMap.Items {
				unique(item.Path, s.ConfigMap.Name)
			}
		}
		if s.DownwardAPI != nil {
			count++
			for j := range s.DownwardAPI.Items {
				v.downwardFile(&s.DownwardAPI.Items[j], src.Child("downwardAPI"))
				unique(s.DownwardAPI.Items[j].Path, s.DownwardAPI.Items[j].Path)
			}
		}
		if s.ServiceAccountToken != nil {
			count++
			v.tokenProjection(s.ServiceAccountToken, at, src.Child("serviceAccountToken"))
		}
		if s.ClusterTrustBundle != nil {
			count++
			v.trustBundle(s.ClusterTrustBundle, src.Child("clusterTrustBundle"))
			if file := s.ClusterTrustBundle.Path; files.again(file) {
				v.invalid(at, file, "conflicting duplicate paths")
			}
		}
		if c := s.PodCertificate; c != nil {
			count++
			v.podCertificate(c, src.Child("podCertificate"))
			for _, file := range []string{c.CredentialBundlePath, c.KeyPath, c.CertificateChainPath} {
				unique(file, file)
			}
		}
		if count > 1 {
			v.forbidden(src, "may not specify more than 1 volume type per source")
		}
	}
}

func (v *podSpecValidator) tokenProjection(t *corev1.ServiceAccountTokenProjection, volume, at *field.Path) {
	const least, most = 10 * 60, 1 << 32
	expires := at.Child("expirationSeconds")
	switch e := t.ExpirationSeconds; {
	case e == nil:
		v.required(expires, "")
	case *e < least:
		v.invalid(expires, *e, "may not specify a duration less than 10 minutes")
	case *e > most:
		v.invalid(expires, *e, "may not specify a duration larger than 2^32 seconds")
	}
	if v.given(volume.Child("path"), t.Path) {
		v.localPath(t.Path, volume.Child("path"))
	}
	v.owner(at.Child("user"), t.User)
}

func (v *podSpecValidator) csi(s *corev1.CSIVolumeSource, at *field.Path) {
	v.csiDriverName(at.Child("driver"), s.Driver)
	if ref := s.NodePublishSecretRef; ref != nil && v.given(at.Child("nodePublishSecretRef", "name"), ref.Name) {
		v.invalid(at.Child("name"), ref.Name, apivalidation.NameIsDNSSubdomain(ref.Name, false)...)
	}
}

func (v *podSpecValidator) ephemeralVolume(volume *corev1.Volume, at *field.Path) {
	if t := volume.Ephemeral.VolumeClaimTemplate; t == nil {
		v.required(at.Child("volumeClaimTemplate"), "")
	} else {
		v.templateMetadata(&t.ObjectMeta, at.Child("volumeClaimTemplate", "metadata"))
		v.claimSpec(at.Child("volumeClaimTemplate", "spec"), &t.Spec, nil)
	}
	if v.podName != "" && volume.Name != "" {
		claim := v.podName + "-" + volume.Name
		for _, m := range apivalidation.NameIsDNSSubdomain(claim, false) {
			v.invalid(at.Child("name"), volume.Name, fmt.Sprintf("PVC name %q: %v", claim, m))
		}
	}
}

// noBacksteps: a path may not leave its directory.
func (f *findings) noBacksteps(p string, at *field.Path) {
	if slices.Contains(strings.Split(p, "/"), "..") {
		f.invalid(at, p, "must not contain '..'")
	}
}

// descending paths are relative and stay below their root.
func (f *findings) descending(p string, at *field.Path) {
	if path.IsAbs(p) {
		f.invalid(at, p, "must be a relative path")
	}
	f.noBacksteps(p, at)
}

// localPath is a descending path that does not look like the agent's own "..data" links.
func (v *podSpecValidator) localPath(p string, at *field.Path) {
	v.descending(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		v.invalid(at, p, "must not start with '..'")
	}
}
