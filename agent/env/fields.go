package env

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Facts are what the downward API tells a pod beside its own object.
type Facts struct {
	NodeName    string
	HostIPs     []netip.Addr
	PodIPs      []netip.Addr
	Allocatable v1.ResourceList
	// Open opens a file in one of the pod's volumes, without following links out of it; nil: there are no volumes yet.
	Open func(volume, path string) (io.ReadCloser, error)
}

// Field returns the value of a downward API field path of pod. Error: the path is not supported.
func Field(pod *v1.Pod, path string, f Facts) (string, error) {
	if kind, key, ok := subscript(path); ok {
		switch kind {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.annotations":
		return pairs(pod.Annotations), nil
	case "metadata.labels":
		return pairs(pod.Labels), nil
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return f.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(f.HostIPs), nil
	case "status.hostIPs":
		return join(f.HostIPs), nil
	case "status.podIP":
		return first(f.PodIPs), nil
	case "status.podIPs":
		return join(f.PodIPs), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// subscript splits metadata.labels['key'].
func subscript(path string) (kind, key string, ok bool) {
	kind, rest, found := strings.Cut(path, "['")
	if !found || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return kind, strings.TrimSuffix(rest, "']"), true
}

// pairs prints a map as the downward API does: sorted, one key="value" a line.
func pairs(m map[string]string) string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return strings.Join(lines, "\n")
}

func first(a []netip.Addr) string {
	if len(a) == 0 {
		return ""
	}
	return a[0].String()
}

func join(a []netip.Addr) string {
	var out []string
	for _, ip := range a {
		out = append(out, ip.String())
	}
	return strings.Join(out, ",")
}

// Resource returns a container's request or limit in units of the selector's divisor, rounded up. A limit that is not set
// reads as what the node can give.
func Resource(pod *v1.Pod, own *v1.Container, sel *v1.ResourceFieldSelector, f Facts) (string, error) {
	c := own
	if sel.ContainerName != "" {
		if c = container(pod, sel.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", sel.ContainerName)
		}
	}
	if c == nil {
		return "", fmt.Errorf("resource %q: a container name is required", sel.Resource)
	}
	kind, name, ok := strings.Cut(sel.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", fmt.Errorf("unsupported container resource : %v", sel.Resource)
	}
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	}
	q, set := list[v1.ResourceName(name)]
	if !set && kind == "limits" {
		q = f.Allocatable[v1.ResourceName(name)]
	} else if !set {
		q = c.Resources.Limits[v1.ResourceName(name)]
	}
	return divide(q, sel.Divisor, name == string(v1.ResourceCPU)), nil
}

func divide(q, divisor resource.Quantity, milli bool) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if milli {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10)
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10)
}

func container(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
