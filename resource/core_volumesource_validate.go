package resource

import (
	"net"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// source is one of the ways in which a volume says where its data is.
type source struct {
	name   string // of its field
	at     string // where Kubernetes puts its findings, when that is elsewhere
	check  func(at *field.Path)
	beside bool // tolerated beside another one
}

// oneSource: exactly one, and that one valid.
func (f *findings) oneSource(path *field.Path, sources []source) {
	if len(sources) == 0 {
		f.required(path, "must specify a volume type")
	}
	for i, s := range sources {
		if i > 0 && !s.beside {
			f.forbidden(path.Child(s.name), "may not specify more than 1 volume type")
			continue
		}
		s.check(path.Child(or(s.at, s.name)))
	}
}

// persistentSources are those that are set, in the order in which Kubernetes looks at them.
func (f *findings) persistentSources(s *corev1.PersistentVolumeSource, volume string) []source {
	var all []source
	add := func(set bool, name, at string, check func(at *field.Path)) {
		if set {
			all = append(all, source{name, at, check, name == "flexVolume"}) // of which nobody looks whether it is alone
		}
	}
	add(s.HostPath != nil, "hostPath", "", func(at *field.Path) { f.hostPath(s.HostPath, at) })
	add(s.GCEPersistentDisk != nil, "gcePersistentDisk", "persistentDisk", func(at *field.Path) {
		f.partitioned(at, "pdName", s.GCEPersistentDisk.PDName, s.GCEPersistentDisk.Partition)
	})
	add(s.AWSElasticBlockStore != nil, "awsElasticBlockStore", "", func(at *field.Path) {
		f.partitioned(at, "volumeID", s.AWSElasticBlockStore.VolumeID, s.AWSElasticBlockStore.Partition)
	})
	add(s.Glusterfs != nil, "glusterfs", "", func(at *field.Path) { f.glusterfs(at, s.Glusterfs) })
	add(s.Flocker != nil, "flocker", "", func(at *field.Path) { f.flocker(at, s.Flocker) })
	add(s.NFS != nil, "nfs", "", func(at *field.Path) { f.nfs(at, s.NFS) })
	add(s.RBD != nil, "rbd", "", func(at *field.Path) {
		f.monitors(at, s.RBD.CephMonitors)
		f.given(at.Child("image"), s.RBD.RBDImage)
	})
	add(s.Quobyte != nil, "quobyte", "", func(at *field.Path) { f.quobyte(at, s.Quobyte) })
	add(s.CephFS != nil, "cephFS", "cephfs", func(at *field.Path) { f.monitors(at, s.CephFS.Monitors) })
	add(s.ISCSI != nil, "iscsi", "", func(at *field.Path) { f.iscsi(at, s.ISCSI, volume) })
	add(s.Cinder != nil, "cinder", "", func(at *field.Path) {
		f.given(at.Child("volumeID"), s.Cinder.VolumeID)
		f.namedSecret(at.Child("secretRef"), s.Cinder.SecretRef)
	})
	add(s.FC != nil, "fc", "", func(at *field.Path) { f.fibreChannel(at, s.FC) })
	add(s.FlexVolume != nil, "flexVolume", "", func(at *field.Path) { f.flexVolume(at, s.FlexVolume.Driver, s.FlexVolume.Options) })
	return append(all, f.morePersistentSources(s)...)
}

// morePersistentSources are the later half of persistentSources.
func (f *findings) morePersistentSources(s *corev1.PersistentVolumeSource) []source {
	var all []source
	add := func(set bool, name string, check func(at *field.Path)) {
		if set {
			all = append(all, source{name: name, check: check})
		}
	}
	add(s.AzureFile != nil, "azureFile", func(at *field.Path) {
		f.given(at.Child("secretName"), s.AzureFile.SecretName)
		f.given(at.Child("shareName"), s.AzureFile.ShareName)
		if ns := s.AzureFile.SecretNamespace; ns != nil {
			f.given(at.Child("secretNamespace"), *ns)
		}
	})
	add(s.VsphereVolume != nil, "vsphereVolume", func(at *field.Path) { f.given(at.Child("volumePath"), s.VsphereVolume.VolumePath) })
	add(s.PhotonPersistentDisk != nil, "photonPersistentDisk", func(at *field.Path) { f.given(at.Child("pdID"), s.PhotonPersistentDisk.PdID) })
	add(s.PortworxVolume != nil, "portworxVolume", func(at *field.Path) { f.given(at.Child("volumeID"), s.PortworxVolume.VolumeID) })
	add(s.AzureDisk != nil, "azureDisk", func(at *field.Path) { f.azureDisk(at, s.AzureDisk) })
	add(s.ScaleIO != nil, "scaleIO", func(at *field.Path) {
		f.given(at.Child("gateway"), s.ScaleIO.Gateway)
		f.given(at.Child("system"), s.ScaleIO.System)
		f.given(at.Child("volumeName"), s.ScaleIO.VolumeName)
	})
	add(s.Local != nil, "local", func(at *field.Path) {
		if f.given(at.Child("path"), s.Local.Path) {
			f.noBacksteps(s.Local.Path, at.Child("path"))
		}
	})
	add(s.StorageOS != nil, "storageos", func(at *field.Path) {
		f.storageOS(at, s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace)
		if ref := s.StorageOS.SecretRef; ref != nil {
			f.namedSecret(at.Child("secretRef"), &corev1.SecretReference{Name: ref.Name, Namespace: ref.Namespace})
		}
	})
	add(s.CSI != nil, "csi", func(at *field.Path) { f.csiVolume(at, s.CSI) })
	return all
}

func (f *findings) hostPath(s *corev1.HostPathVolumeSource, at *field.Path) {
	if !f.given(at.Child("path"), s.Path) {
		return
	}
	f.noBacksteps(s.Path, at.Child("path"))
	optionalOneOf(f, at.Child("type"), s.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev,
		corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
}

// partitioned disks have a name and, for the whole disk, partition 0.
func (f *findings) partitioned(at *field.Path, id, value string, partition int32) {
	f.given(at.Child(id), value)
	if partition < 0 || partition > 255 {
		f.invalid(at.Child("partition"), partition, validation.InclusiveRangeError(1, 255))
	}
}

func (f *findings) glusterfs(at *field.Path, s *corev1.GlusterfsPersistentVolumeSource) {
	f.given(at.Child("endpoints"), s.EndpointsName)
	f.given(at.Child("path"), s.Path)
	switch ns := s.EndpointsNamespace; {
	case ns == nil:
	case *ns == "":
		f.invalid(at.Child("endpointsNamespace"), *ns, "if the endpointnamespace is set, it must be a valid namespace name")
	default:
		f.dnsLabel(at.Child("endpointsNamespace"), *ns)
	}
}

func (f *findings) flocker(at *field.Path, s *corev1.FlockerVolumeSource) {
	switch {
	case s.DatasetName == "" && s.DatasetUUID == "":
		f.required(at, "one of datasetName and datasetUUID is required")
	case s.DatasetName != "" && s.DatasetUUID != "":
		f.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(s.DatasetName, "/") {
		f.invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'")
	}
}

func (f *findings) nfs(at *field.Path, s *corev1.NFSVolumeSource) {
	f.given(at.Child("server"), s.Server)
	f.given(at.Child("path"), s.Path)
	if !path.IsAbs(s.Path) {
		f.invalid(at.Child("path"), s.Path, "must be an absolute path")
	}
}

func (f *findings) monitors(at *field.Path, monitors []string) {
	if len(monitors) == 0 {
		f.required(at.Child("monitors"), "")
	}
}

func (f *findings) quobyte(at *field.Path, s *corev1.QuobyteVolumeSource) {
	const hosts = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case s.Registry == "":
		f.required(at.Child("registry"), hosts)
	case len(s.Tenant) > 64:
		f.required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	default:
		for _, pair := range strings.Split(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				f.invalid(at.Child("registry"), s.Registry, hosts)
			}
		}
	}
	f.given(at.Child("volume"), s.Volume)
}

// iscsiNames are the three forms in which an iSCSI node is named, by their first letters (RFC 3721).
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func (f *findings) iscsiName(at *field.Path, name string) {
	form := iscsiNames[name[:min(len(name), 3)]]
	if form == nil || !form.MatchString(name) {
		f.invalid(at, name, "must be valid format")
	}
}

func (f *findings) iscsi(at *field.Path, s *corev1.ISCSIPersistentVolumeSource, volume string) {
	f.given(at.Child("targetPortal"), s.TargetPortal)
	if s.InitiatorName != nil && len(volume+":"+s.TargetPortal) > 64 {
		f.invalid(at.Child("targetportal"), s.TargetPortal,
			"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	if f.given(at.Child("iqn"), s.IQN) {
		f.iscsiName(at.Child("iqn"), s.IQN)
	}
	f.lun(at, s.Lun)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		f.required(at.Child("secretRef"), "")
	}
	if s.SecretRef != nil {
		f.given(at.Child("secretRef", "name"), s.SecretRef.Name)
	}
	if s.InitiatorName != nil {
		f.iscsiName(at.Child("initiatorname"), *s.InitiatorName)
	}
}

func (f *findings) lun(at *field.Path, lun int32) {
	if lun < 0 || lun > 255 {
		f.invalid(at.Child("lun"), lun, validation.InclusiveRangeError(0, 255))
	}
}

// namedSecret is a secret in a namespace of its own; nil is none.
func (f *findings) namedSecret(at *field.Path, ref *corev1.SecretReference) {
	if ref != nil {
		f.given(at.Child("name"), ref.Name)
		f.given(at.Child("namespace"), ref.Namespace)
	}
}

func (f *findings) fibreChannel(at *field.Path, s *corev1.FCVolumeSource) {
	names := at.Child("targetWWNs")
	switch {
	case len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0:
		f.required(names, "must specify either targetWWNs or wwids, but not both")
	case len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0:
		f.invalid(names, s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	switch {
	case len(s.TargetWWNs) == 0:
	case s.Lun == nil:
		f.required(at.Child("lun"), "lun is required if targetWWNs is specified")
	default:
		f.lun(at, *s.Lun)
	}
}

// flexVolume options may not take Kubernetes' own names.
func (f *findings) flexVolume(at *field.Path, driver string, options map[string]string) {
	f.given(at.Child("driver"), driver)
	for key := range options {
		domain, _, _ := strings.Cut(key, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			f.invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (f *findings) azureDisk(at *field.Path, s *corev1.AzureDiskVolumeSource) {
	const (
		managed = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
		blob    = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	)
	f.given(at.Child("diskName"), s.DiskName)
	uri := at.Child("diskURI")
	f.given(uri, s.DataDiskURI)
	optionalOneOf(f, at.Child("cachingMode"), s.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	optionalOneOf(f, at.Child("kind"), s.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)
	switch {
	case s.Kind == nil:
	case *s.Kind == corev1.AzureManagedDisk && !strings.HasPrefix(s.DataDiskURI, "/subscriptions/"):
		f.add(field.NotSupported(uri, s.DataDiskURI, []string{managed}))
	case *s.Kind != corev1.AzureManagedDisk && !strings.HasPrefix(s.DataDiskURI, "https://"):
		f.add(field.NotSupported(uri, s.DataDiskURI, []string{blob}))
	}
}

func (f *findings) storageOS(at *field.Path, volume, namespace string) {
	if f.given(at.Child("volumeName"), volume) {
		f.dnsLabel(at.Child("volumeName"), volume)
	}
	if namespace != "" {
		f.dnsLabel(at.Child("volumeNamespace"), namespace)
	}
}

func (f *findings) csiVolume(at *field.Path, s *corev1.CSIPersistentVolumeSource) {
	f.csiDriverName(at.Child("driver"), s.Driver)
	f.given(at.Child("volumeHandle"), s.VolumeHandle)
	for name, ref := range map[string]*corev1.SecretReference{
		"controllerPublishSecretRef": s.ControllerPublishSecretRef, "controllerExpandSecretRef": s.ControllerExpandSecretRef,
		"nodePublishSecretRef": s.NodePublishSecretRef, "nodeExpandSecretRef": s.NodeExpandSecretRef,
	} {
		if ref == nil {
			continue
		}
		if at := at.Child(name, "name"); f.given(at, ref.Name) {
			f.dnsSubdomain(at, ref.Name)
		}
		if at := at.Child(name, "namespace"); f.given(at, ref.Namespace) {
			f.dnsLabel(at, ref.Namespace)
		}
	}
}
