package resource

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// sources of a pod's volume that are set, in the order in which Kubernetes looks at them.
func (v *podSpecValidator) sources(volume *corev1.Volume, at *field.Path) []source {
	s := &volume.VolumeSource
	var all []source
	add := func(set bool, name, found string, check func(at *field.Path)) {
		if set {
			all = append(all, source{name: name, at: found, check: check})
		}
	}
	add(s.EmptyDir != nil, "emptyDir", "", func(at *field.Path) { v.emptyDir(s.EmptyDir, at) })
	add(s.HostPath != nil, "hostPath", "", func(at *field.Path) { v.hostPath(s.HostPath, at) })
	add(s.GitRepo != nil, "gitRepo", "", func(at *field.Path) {
		v.given(at.Child("repository"), s.GitRepo.Repository)
		v.localPath(s.GitRepo.Directory, at.Child("directory"))
	})
	add(s.GCEPersistentDisk != nil, "gcePersistentDisk", "persistentDisk", func(at *field.Path) {
		v.partitioned(at, "pdName", s.GCEPersistentDisk.PDName, s.GCEPersistentDisk.Partition)
	})
	add(s.AWSElasticBlockStore != nil, "awsElasticBlockStore", "", func(at *field.Path) {
		v.partitioned(at, "volumeID", s.AWSElasticBlockStore.VolumeID, s.AWSElasticBlockStore.Partition)
	})
	add(s.Secret != nil, "secret", "", func(at *field.Path) {
		v.given(at.Child("secretName"), s.Secret.SecretName)
		v.keys(s.Secret.Items, s.Secret.DefaultMode, at)
		v.owner(at.Child("defaultUser"), s.Secret.DefaultUser)
	})
	add(s.NFS != nil, "nfs", "", func(at *field.Path) { v.nfs(at, s.NFS) })
	if s.ISCSI != nil {
		add(true, "iscsi", "", func(at *field.Path) { v.iscsi(s.ISCSI, at) })
		if s.ISCSI.InitiatorName != nil && len(volume.Name+":"+s.ISCSI.TargetPortal) > 64 {
			v.invalid(at.Child("name"), volume.Name,
				"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
		}
	}
	add(s.Glusterfs != nil, "glusterfs", "", func(at *field.Path) {
		v.given(at.Child("endpoints"), s.Glusterfs.EndpointsName)
		v.given(at.Child("path"), s.Glusterfs.Path)
	})
	add(s.Flocker != nil, "flocker", "", func(at *field.Path) { v.flocker(at, s.Flocker) })
	add(s.PersistentVolumeClaim != nil, "persistentVolumeClaim", "", func(at *field.Path) {
		v.given(at.Child("claimName"), s.PersistentVolumeClaim.ClaimName)
	})
	add(s.RBD != nil, "rbd", "", func(at *field.Path) {
		v.monitors(at, s.RBD.CephMonitors)
		v.given(at.Child("image"), s.RBD.RBDImage)
	})
	return append(all, v.moreSources(volume)...)
}

// moreSources are the later half of sources.
func (v *podSpecValidator) moreSources(volume *corev1.Volume) []source {
	s := &volume.VolumeSource
	var all []source
	add := func(set bool, name, found string, check func(at *field.Path)) {
		if set {
			all = append(all, source{name: name, at: found, check: check})
		}
	}
	add(s.Cinder != nil, "cinder", "", func(at *field.Path) {
		v.given(at.Child("volumeID"), s.Cinder.VolumeID)
		if s.Cinder.SecretRef != nil {
			v.given(at.Child("secretRef", "name"), s.Cinder.SecretRef.Name)
		}
	})
	add(s.CephFS != nil, "cephFS", "cephfs", func(at *field.Path) { v.monitors(at, s.CephFS.Monitors) })
	add(s.Quobyte != nil, "quobyte", "", func(at *field.Path) { v.quobyte(at, s.Quobyte) })
	add(s.DownwardAPI != nil, "downwarAPI", "downwardAPI", func(at *field.Path) { // sic
		v.fileMode(at.Child("defaultMode"), s.DownwardAPI.DefaultMode)
		v.owner(at.Child("defaultUser"), s.DownwardAPI.DefaultUser)
		for i := range s.DownwardAPI.Items {
			v.downwardFile(&s.DownwardAPI.Items[i], at)
		}
	})
	add(s.FC != nil, "fc", "", func(at *field.Path) { v.fibreChannel(at, s.FC) })
	add(s.FlexVolume != nil, "flexVolume", "", func(at *field.Path) { v.flexVolume(at, s.FlexVolume.Driver, s.FlexVolume.Options) })
	add(s.ConfigMap != nil, "configMap", "", func(at *field.Path) {
		v.given(at.Child("name"), s.ConfigMap.Name)
		v.keys(s.ConfigMap.Items, s.ConfigMap.DefaultMode, at)
		v.owner(at.Child("defaultUser"), s.ConfigMap.DefaultUser)
	})
	add(s.AzureFile != nil, "azureFile", "", func(at *field.Path) {
		v.given(at.Child("secretName"), s.AzureFile.SecretName)
		v.given(at.Child("shareName"), s.AzureFile.ShareName)
	})
	add(s.VsphereVolume != nil, "vsphereVolume", "", func(at *field.Path) { v.given(at.Child("volumePath"), s.VsphereVolume.VolumePath) })
	add(s.PhotonPersistentDisk != nil, "photonPersistentDisk", "", func(at *field.Path) { v.given(at.Child("pdID"), s.PhotonPersistentDisk.PdID) })
	add(s.PortworxVolume != nil, "portworxVolume", "", func(at *field.Path) { v.given(at.Child("volumeID"), s.PortworxVolume.VolumeID) })
	add(s.AzureDisk != nil, "azureDisk", "", func(at *field.Path) { v.azureDisk(at, s.AzureDisk) })
	add(s.StorageOS != nil, "storageos", "", func(at *field.Path) {
		v.storageOS(at, s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace)
		if s.StorageOS.SecretRef != nil {
			v.given(at.Child("secretRef", "name"), s.StorageOS.SecretRef.Name)
		}
	})
	add(s.Projected != nil, "projected", "", func(at *field.Path) {
		v.fileMode(at.Child("defaultMode"), s.Projected.DefaultMode)
		v.owner(at.Child("defaultUser"), s.Projected.DefaultUser)
		v.projections(s.Projected.Sources, at)
	})
	add(s.ScaleIO != nil, "scaleIO", "", func(at *field.Path) {
		v.given(at.Child("gateway"), s.ScaleIO.Gateway)
		v.given(at.Child("system"), s.ScaleIO.System)
		v.given(at.Child("volumeName"), s.ScaleIO.VolumeName)
	})
	add(s.CSI != nil, "csi", "", func(at *field.Path) { v.csi(s.CSI, at) })
	add(s.Ephemeral != nil, "ephemeral", "", func(at *field.Path) { v.ephemeralVolume(volume, at) })
	add(s.Image != nil, "image", "", func(at *field.Path) {
		v.given(at.Child("reference"), s.Image.Reference)
		oneOf(&v.findings, at.Child("pullPolicy"), s.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	})
	return all
}

func (v *podSpecValidator) emptyDir(s *corev1.EmptyDirVolumeSource, at *field.Path) {
	if l := s.SizeLimit; l != nil && l.Sign() < 0 {
		v.forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
	}
	if m := s.Mode; m != nil && (*m < 0 || *m > 0o1777) {
		v.invalid(at.Child("mode"), *m, "must be a number between 0 and 1777 (octal), both inclusive")
	}
}

// iscsi in a pod; its secret is of the pod's namespace and may go without a name.
func (v *podSpecValidator) iscsi(s *corev1.ISCSIVolumeSource, at *field.Path) {
	v.given(at.Child("targetPortal"), s.TargetPortal)
	if v.given(at.Child("iqn"), s.IQN) {
		v.prefixedISCSIName(at.Child("iqn"), s.IQN)
	}
	v.lun(at, s.Lun)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		v.required(at.Child("secretRef"), "")
	}
	if s.InitiatorName != nil {
		v.prefixedISCSIName(at.Child("initiatorname"), *s.InitiatorName)
	}
}

// prefixedISCSIName says more of a name that does not even begin like one.
func (v *podSpecValidator) prefixedISCSIName(at *field.Path, name string) {
	if iscsiNames[name[:min(len(name), 3)]] == nil {
		v.invalid(at, name, "must be valid format starting with iqn, eui, or naa")
		return
	}
	v.iscsiName(at, name)
}

// trustBundle names roots of trust by their object or by the signer whom they are for (KEP-3257).
func (v *podSpecValidator) trustBundle(s *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case s.Name != nil && s.SignerName != nil:
		v.invalid(at, s, "only one of name and signerName may be used")
	case s.Name != nil:
		if *s.Name == "" {
			v.required(at.Child("name"), "must be a valid object name")
		}
		v.trustBundleName(at.Child("name"), *s.Name)
		if s.LabelSelector != nil {
			v.invalid(at.Child("labelSelector"), s.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case s.SignerName != nil:
		if *s.SignerName == "" {
			v.required(at.Child("signerName"), "must be a valid signer name")
		}
		v.signerName(at.Child("signerName"), *s.SignerName)
		if s.LabelSelector != nil {
			v.labelSelector(s.LabelSelector, at.Child("labelSelector"))
		}
	default:
		v.required(at, "either name or signerName must be specified")
	}
	v.given(at.Child("path"), s.Path)
	v.owner(at.Child("user"), s.User)
	v.localPath(s.Path, at.Child("path"))
}

// trustBundleName: a bundle of a signer begins with the signer's name, its slash as a colon.
func (v *podSpecValidator) trustBundleName(at *field.Path, name string) {
	rest := name
	if i := strings.LastIndex(name, ":"); i >= 0 {
		rest = name[i+1:]
	}
	for _, m := range apivalidation.NameIsDNSSubdomain(rest, false) {
		v.invalid(at, name, "not a valid clustertrustbundlename: "+m)
	}
}

// podCertificate is a key and a certificate that the agent obtains for the pod (KEP-4317).
func (v *podSpecValidator) podCertificate(c *corev1.PodCertificateProjection, at *field.Path) {
	v.signerName(at.Child("signerName"), c.SignerName)
	v.userAnnotations(at.Child("userAnnotations"), c.UserAnnotations)
	v.owner(at.Child("user"), c.User)
	optionalOneOf(&v.findings, at.Child("keyType"), &c.KeyType, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
	if s := c.MaxExpirationSeconds; s != nil {
		most := maxPodCertificate
		if kubernetesSigner(c.SignerName) {
			most = maxKubernetesPodCerts
		}
		if seconds := at.Child("maxExpirationSeconds"); *s < minPodCertificate {
			v.invalid(seconds, *s, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minPodCertificate))
		} else if *s > most {
			v.invalid(seconds, *s, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most))
		}
	}
	files := map[string]string{"credentialBundlePath": c.CredentialBundlePath, "keyPath": c.KeyPath, "certificateChainPath": c.CertificateChainPath}
	none := true
	for name, file := range files {
		if file != "" {
			none = false
			v.localPath(file, at.Child(name))
		}
	}
	if none {
		v.required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
}
