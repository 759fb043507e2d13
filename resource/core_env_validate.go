package resource

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// What a container may learn about its pod through env, and through files. Sorted: messages list them.
var (
	envFieldPaths = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
		"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFieldPaths     = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	resourceFieldPaths = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func (v *podSpecValidator) env(vars []corev1.EnvVar, path *field.Path) {
	for i := range vars {
		e, at := &vars[i], path.Index(i)
		if v.given(at.Child("name"), e.Name) {
			v.invalid(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name)...)
		}
		if e.ValueFrom != nil {
			v.envSource(e, at.Child("valueFrom"))
		}
	}
}

func (v *podSpecValidator) envSource(e *corev1.EnvVar, at *field.Path) {
	sources, from := 0, e.ValueFrom
	if from.FieldRef != nil {
		sources++
		v.fieldRef(from.FieldRef, envFieldPaths, at.Child("fieldRef"))
	}
	if from.ResourceFieldRef != nil {
		sources++
		v.resourceFieldRef(from.ResourceFieldRef, false, at.Child("resourceFieldRef"))
	}
	if s := from.ConfigMapKeyRef; s != nil {
		sources++
		v.keyRef(s.Name, s.Key, at.Child("configMapKeyRef"))
	}
	if s := from.SecretKeyRef; s != nil {
		sources++
		v.keyRef(s.Name, s.Key, at.Child("secretKeyRef"))
	}
	if from.FileKeyRef != nil {
		sources++
		v.fileKeyRef(from.FileKeyRef, at.Child("fileKeyRef"))
	}
	switch {
	case sources == 0:
		v.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case e.Value != "":
		v.invalid(at, "", "may not be specified when `value` is not empty")
	case sources > 1:
		v.invalid(at, "", "may not have more than one field specified at a time")
	}
}

func (v *podSpecValidator) keyRef(name, key string, at *field.Path) {
	v.invalid(at.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, false)...)
	if v.given(at.Child("key"), key) {
		v.invalid(at.Child("key"), key, validation.IsConfigMapKey(key)...)
	}
}

// fileKeyRef reads a variable from a file that another container wrote into an emptyDir (KEP-3721).
func (v *podSpecValidator) fileKeyRef(s *corev1.FileKeySelector, at *field.Path) {
	if v.given(at.Child("key"), s.Key) {
		v.invalid(at.Child("key"), s.Key, validation.IsRelaxedEnvVarName(s.Key)...)
	}
	if v.given(at.Child("volumeName"), s.VolumeName) {
		v.dnsLabel(at.Child("volumeName"), s.VolumeName)
	}
	if v.given(at.Child("path"), s.Path) {
		v.noBacksteps(s.Path, at.Child("path"))
	}
	// Any volume of that name will do, also one with faults of its own; of several, the last.
	var source *corev1.Volume
	for i := range v.spec.Volumes {
		if v.spec.Volumes[i].Name == s.VolumeName {
			source = &v.spec.Volumes[i]
		}
	}
	if source == nil {
		v.add(field.NotFound(at.Child("volumeName"), s.VolumeName))
	} else if source.EmptyDir == nil {
		v.invalid(at.Child("volumeName"), s.VolumeName, "referenced volume must be of type emptyDir")
	}
}

func (v *podSpecValidator) envFrom(sources []corev1.EnvFromSource, path *field.Path) {
	for i := range sources {
		e, at := &sources[i], path.Index(i)
		if e.Prefix != "" {
			v.invalid(at.Child("prefix"), e.Prefix, validation.IsRelaxedEnvVarName(e.Prefix)...)
		}
		count := 0
		for _, s := range []struct {
			field string
			ref   *corev1.LocalObjectReference
		}{
			{"configMapRef", refOf(e.ConfigMapRef, func(r *corev1.ConfigMapEnvSource) *corev1.LocalObjectReference { return &r.LocalObjectReference })},
			{"secretRef", refOf(e.SecretRef, func(r *corev1.SecretEnvSource) *corev1.LocalObjectReference { return &r.LocalObjectReference })},
		} {
			if s.ref == nil {
				continue
			}
			count++
			if name := at.Child(s.field, "name"); v.given(name, s.ref.Name) {
				v.invalid(name, s.ref.Name, apivalidation.NameIsDNSSubdomain(s.ref.Name, true)...)
			}
		}
		switch {
		case count == 0:
			v.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
		case count > 1:
			v.invalid(path, "", "may not have more than one field specified at a time")
		}
	}
}

// refOf is the reference inside an optional source.
func refOf[S any](s *S, ref func(*S) *corev1.LocalObjectReference) *corev1.LocalObjectReference {
	if s == nil {
		return nil
	}
	return ref(s)
}

// fieldRef names a field of the pod: one of the paths, or a single label or annotation.
func (v *podSpecValidator) fieldRef(ref *corev1.ObjectFieldSelector, paths []string, at *field.Path) {
	if !v.given(at.Child("apiVersion"), ref.APIVersion) || !v.given(at.Child("fieldPath"), ref.FieldPath) {
		return
	}
	path := ref.FieldPath
	known := path == "spec.host" || path == "spec.restartPolicy" || path == "spec.schedulerName" || path == "status.phase" ||
		slices.Contains(envFieldPaths, path) || slices.Contains(fileFieldPaths, path)
	whole, subscript, subscripted := subscriptedPath(path)
	switch {
	case ref.APIVersion != "v1":
		v.invalid(at.Child("fieldPath"), path, fmt.Sprintf("error converting fieldPath: unsupported pod version: %s", ref.APIVersion))
	case subscripted && whole == "metadata.annotations":
		v.qualifiedName(at, strings.ToLower(subscript))
	case subscripted && whole == "metadata.labels":
		v.qualifiedName(at, subscript)
	case subscripted:
		v.invalid(at.Child("fieldPath"), path, "error converting fieldPath: field label does not support subscript: "+path)
	case !known:
		v.invalid(at.Child("fieldPath"), path, "error converting fieldPath: field label not supported: "+path)
	case !slices.Contains(paths, path):
		v.add(field.NotSupported(at.Child("fieldPath"), path, paths))
	}
}

// subscriptedPath splits "metadata.labels['app']".
func subscriptedPath(path string) (whole, subscript string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	whole, subscript, ok = strings.Cut(rest, "['")
	return whole, subscript, ok && whole != ""
}

var sizeDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}

// resourceFieldRef names a request or limit of a container; a file has to say of which.
func (v *podSpecValidator) resourceFieldRef(ref *corev1.ResourceFieldSelector, file bool, at *field.Path) {
	hugePages := strings.HasPrefix(ref.Resource, "limits."+corev1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(ref.Resource, "requests."+corev1.ResourceHugePagesPrefix)
	switch {
	case file && ref.ContainerName == "":
		v.required(at.Child("containerName"), "")
	case ref.Resource == "":
		v.required(at.Child("resource"), "")
	case !hugePages && !slices.Contains(resourceFieldPaths, ref.Resource):
		v.add(field.NotSupported(at.Child("resource"), ref.Resource, resourceFieldPaths))
	}
	if ref.Divisor.Cmp(resource.Quantity{}) == 0 {
		return
	}
	allowed, of := sizeDivisors, ""
	switch _, name, _ := strings.Cut(ref.Resource, "."); {
	case name == "cpu":
		allowed, of = []string{"1m", "1"}, "cpu"
	case name == "memory":
		of = "memory"
	case name == "ephemeral-storage":
		of = "local ephemeral storage"
	case hugePages:
		of = "hugepages"
	}
	if of != "" && !slices.Contains(allowed, ref.Divisor.String()) {
		list := strings.Join(allowed, ", ")
		if of == "cpu" {
			list = "1m and 1"
		}
		v.invalid(at.Child("divisor"), ref.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", list, of))
	}
}

// mounts checks where a container sees the pod's volumes.
func (v *podSpecValidator) mounts(c *corev1.Container, path *field.Path) {
	points := seen{}
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], path.Index(i)
		v.given(at.Child("name"), m.Name)
		if _, found := v.volumes[m.Name]; !found {
			v.add(field.NotFound(at.Child("name"), m.Name))
		}
		v.given(at.Child("mountPath"), m.MountPath)
		if points.again(m.MountPath) {
			v.invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		for _, d := range c.VolumeDevices {
			if d.Name == m.Name {
				v.invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices")
			}
			if d.DevicePath == m.MountPath {
				v.invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
			}
		}
		v.subPaths(m, at, path)
		optionalOneOf(&v.findings, path.Child("mountPropagation"), m.MountPropagation,
			corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		privileged := c.SecurityContext != nil && ptr.Deref(c.SecurityContext.Privileged, false)
		if ptr.Deref(m.MountPropagation, "") == corev1.MountPropagationBidirectional && !privileged {
			v.forbidden(path.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers")
		}
		v.recursiveReadOnly(m, path.Child("recursiveReadOnly"))
	}
}

func (v *podSpecValidator) subPaths(m *corev1.VolumeMount, at, path *field.Path) {
	if m.SubPath != "" {
		v.descending(m.SubPath, path.Child("subPath"))
	}
	if m.SubPathExpr == "" {
		return
	}
	if m.SubPath != "" {
		v.invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
	}
	v.descending(m.SubPathExpr, path.Child("subPathExpr"))
}

func (v *podSpecValidator) recursiveReadOnly(m *corev1.VolumeMount, at *field.Path) {
	optionalOneOf(&v.findings, at, m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	switch ptr.Deref(m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled) {
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
	default:
		return
	}
	if !m.ReadOnly {
		v.forbidden(at, "may only be specified when readOnly is true")
	}
	if ptr.Deref(m.MountPropagation, corev1.MountPropagationNone) != corev1.MountPropagationNone {
		v.forbidden(at, "may only be specified when mountPropagation is None or not specified")
	}
}

// devices are volumes that a container gets as block devices.
func (v *podSpecValidator) devices(c *corev1.Container, path *field.Path) {
	names, paths := seen{}, seen{}
	for i, d := range c.VolumeDevices {
		at := path.Index(i)
		source, found := v.volumes[d.Name]
		v.given(at.Child("name"), d.Name)
		if d.Name != "" && names.again(d.Name) {
			v.invalid(at.Child("name"), d.Name, "must be unique")
		}
		if found && source.PersistentVolumeClaim == nil && source.Ephemeral == nil {
			v.invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		if !found {
			v.add(field.NotFound(at.Child("name"), d.Name))
		}
		v.given(at.Child("devicePath"), d.DevicePath)
		if paths.again(d.DevicePath) {
			v.invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
		}
		if slices.Contains(strings.Split(d.DevicePath, "/"), "..") {
			v.invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')")
		}
		for _, m := range c.VolumeMounts {
			if m.Name == d.Name {
				v.invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts")
			}
			if m.MountPath == d.DevicePath {
				v.invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
			}
		}
	}
}
