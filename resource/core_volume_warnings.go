package resource

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// volume warns of kinds of volumes that are gone or going.
func (w *podWarnings) volume(v *corev1.Volume, at *field.Path) {
	gone := func(is bool, name, why string) {
		if is {
			w.at(at.Child(name), "%s", why)
		}
	}
	gone(v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+")
	gone(v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+")
	gone(v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+")
	gone(v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+")
	gone(v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+")
	gone(v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+")
	gone(v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+")
	if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
		w.list = append(w.list, claimSizeWarnings(&e.VolumeClaimTemplate.Spec, at.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
	}
	gone(v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+")
	gone(v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+")
}

// madeFile is a file that a volume makes, and of what; from is "" where the volume has one source only.
type madeFile struct{ path, from string }

func (f madeFile) String() string {
	if f.from == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.from)
}

// overlappingFiles warns of volumes whose files hide one another.
func overlappingFiles(volumes []corev1.Volume) []string {
	var out []string
	for i := range volumes {
		v := &volumes[i]
		warn := func(kind, clash string) {
			out = append(out, fmt.Sprintf("volume %q (%s): overlapping paths: %s", v.Name, kind, clash))
		}
		check := func(kind string, files []madeFile) {
			for _, clash := range clashes(files) {
				warn(kind, clash)
			}
		}
		if s := v.ConfigMap; s != nil {
			check(fmt.Sprintf("ConfigMap %q", s.Name), keyFiles(s.Items, ""))
		}
		if s := v.Secret; s != nil {
			check(fmt.Sprintf("Secret %q", s.SecretName), keyFiles(s.Items, ""))
		}
		if s := v.DownwardAPI; s != nil {
			check("DownwardAPI", downwardFiles(s.Items, ""))
		}
		if s := v.Projected; s != nil {
			var files []madeFile
			for _, source := range s.Sources {
				if source == (corev1.VolumeProjection{}) {
					out = append(out, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				}
				files = append(files, projectedFiles(source)...)
			}
			check("Projected", files)
		}
	}
	return out
}

func keyFiles(items []corev1.KeyToPath, from string) []madeFile {
	var out []madeFile
	for _, item := range items {
		out = append(out, madeFile{item.Path, from})
	}
	return out
}

func downwardFiles(items []corev1.DownwardAPIVolumeFile, from string) []madeFile {
	var out []madeFile
	for _, item := range items {
		out = append(out, madeFile{item.Path, from})
	}
	return out
}

func projectedFiles(p corev1.VolumeProjection) []madeFile {
	switch {
	case p.ConfigMap != nil && p.ConfigMap.Items != nil:
		return keyFiles(p.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", p.ConfigMap.Name))
	case p.Secret != nil && p.Secret.Items != nil:
		return keyFiles(p.Secret.Items, fmt.Sprintf("Secret %q", p.Secret.Name))
	case p.DownwardAPI != nil && p.DownwardAPI.Items != nil:
		return downwardFiles(p.DownwardAPI.Items, "DownwardAPI")
	case p.ServiceAccountToken != nil:
		return []madeFile{{p.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case p.ClusterTrustBundle != nil:
		name := ptr.Deref(p.ClusterTrustBundle.Name, ptr.Deref(p.ClusterTrustBundle.SignerName, ""))
		return []madeFile{{p.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", name)}}
	case p.PodCertificate != nil:
		return []madeFile{
			{p.PodCertificate.CertificateChainPath, "PodCertificate chain"},
			{p.PodCertificate.KeyPath, "PodCertificate key"},
			{p.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle"},
		}
	}
	return nil
}

// clashes names each file with those before it that are the same, above or below it.
func clashes(files []madeFile) []string {
	var out []string
	var before []madeFile
	for _, f := range files {
		if f.path = strings.TrimRight(f.path, "/"); f.path == "" {
			continue
		}
		for _, b := range before {
			if strings.HasPrefix(b.path+"/", f.path+"/") || strings.HasPrefix(f.path+"/", b.path+"/") {
				out = append(out, fmt.Sprintf("%s with %s", f, b))
			}
		}
		before = append(before, f)
	}
	return out
}
