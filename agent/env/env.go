package env

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Objects reads what a pod refers to. Errors are API errors: IsNotFound decides what "optional" means.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Variables is a container's environment: names in order of first appearance, each with its last value.
type Variables struct {
	names  []string
	values map[string]string
}

func (v *Variables) set(name, value string) {
	if _, has := v.values[name]; !has {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

// Lookup finds a variable.
func (v *Variables) Lookup(name string) (string, bool) {
	value, ok := v.values[name]
	return value, ok
}

// List returns NAME=value strings.
func (v *Variables) List() []string {
	out := make([]string, 0, len(v.names))
	for _, n := range v.names {
		out = append(out, n+"="+v.values[n])
	}
	return out
}

// For computes the environment of container c of pod. services are the pod's namespace's (when it wants service links)
// and the kubernetes service; see Services. Errors tell what is missing, in the words that users know from kubelet.
func For(ctx context.Context, pod *v1.Pod, c *v1.Container, services map[string]string, f Facts, objects Objects) (*Variables, error) {
	b := builder{ctx: ctx, pod: pod, container: c, facts: f, objects: objects}
	b.vars.values = map[string]string{}
	for _, from := range c.EnvFrom {
		if err := b.from(from); err != nil {
			return nil, err
		}
	}
	known := func(name string) (string, bool) {
		if value, ok := b.vars.Lookup(name); ok {
			return value, ok
		}
		value, ok := services[name]
		return value, ok
	}
	for _, e := range c.Env {
		value, skip, err := b.value(e, known)
		if err != nil {
			return nil, err
		}
		if !skip {
			b.vars.set(e.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, has := b.vars.Lookup(name); !has {
			b.vars.set(name, services[name])
		}
	}
	return &b.vars, nil
}

type builder struct {
	ctx       context.Context
	pod       *v1.Pod
	container *v1.Container
	facts     Facts
	objects   Objects
	vars      Variables
}

func (b *builder) from(from v1.EnvFromSource) error {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := b.objects.ConfigMap(b.ctx, b.pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return unless(from.ConfigMapRef.Optional, err)
		}
		for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
			b.vars.set(from.Prefix+k, cm.Data[k])
		}
	case from.SecretRef != nil:
		s, err := b.objects.Secret(b.ctx, b.pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return unless(from.SecretRef.Optional, err)
		}
		for _, k := range slices.Sorted(maps.Keys(s.Data)) {
			b.vars.set(from.Prefix+k, string(s.Data[k]))
		}
	}
	return nil
}

// unless turns NotFound into nothing when the reference is optional.
func unless(optional *bool, err error) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (b *builder) value(e v1.EnvVar, known func(string) (string, bool)) (value string, skip bool, err error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return Expand(e.Value, known), false, nil
	case from.FieldRef != nil:
		value, err = Field(b.pod, from.FieldRef.FieldPath, b.facts)
		return value, false, err
	case from.ResourceFieldRef != nil:
		value, err = Resource(b.pod, b.container, from.ResourceFieldRef, b.facts)
		return value, false, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		optional := ref.Optional != nil && *ref.Optional
		cm, err := b.objects.ConfigMap(b.ctx, b.pod.Namespace, ref.Name)
		if err != nil {
			return "", true, unless(ref.Optional, err)
		}
		value, ok := cm.Data[ref.Key]
		if !ok && !optional {
			return "", true, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, b.pod.Namespace, ref.Name)
		}
		return value, !ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		optional := ref.Optional != nil && *ref.Optional
		s, err := b.objects.Secret(b.ctx, b.pod.Namespace, ref.Name)
		if err != nil {
			return "", true, unless(ref.Optional, err)
		}
		data, ok := s.Data[ref.Key]
		if !ok && !optional {
			return "", true, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, b.pod.Namespace, ref.Name)
		}
		return string(data), !ok, nil
	case from.FileKeyRef != nil && b.facts.Open != nil:
		return b.inFile(from.FileKeyRef)
	}
	return "", true, fmt.Errorf("environment variable %s: unknown source", e.Name)
}

// inFile reads a variable that another container, an init container as a rule, has left in a file.
func (b *builder) inFile(ref *v1.FileKeySelector) (value string, skip bool, err error) {
	optional := ref.Optional != nil && *ref.Optional
	file, err := b.facts.Open(ref.VolumeName, ref.Path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return "", true, nil
	}
	if err != nil {
		return "", true, fmt.Errorf("opening the file of environment variables %q: %w", ref.Path, err)
	}
	defer file.Close()
	value, found, err := InFile(file, ref.Key)
	switch {
	case err != nil:
		return "", true, fmt.Errorf("couldn't parse env file %q: %w", ref.Path, err)
	case !found && !optional:
		return "", true, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, !found, nil
}

// Services makes the variables that describe services: NAME_SERVICE_HOST, NAME_SERVICE_PORT and the Docker links' form.
// Headless services and those without an address are left out.
func Services(list []*v1.Service) map[string]string {
	out := map[string]string{}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *v1.Service) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range list {
		ip := s.Spec.ClusterIP
		if ip == "" || ip == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		name := variable(s.Name)
		out[name+"_SERVICE_HOST"] = ip
		out[name+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
		for i, p := range s.Spec.Ports {
			port := strconv.Itoa(int(p.Port))
			if p.Name != "" {
				out[name+"_SERVICE_PORT_"+variable(p.Name)] = port
			}
			protocol := string(p.Protocol)
			if protocol == "" {
				protocol = string(v1.ProtocolTCP)
			}
			link := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
			prefix := name + "_PORT_" + port + "_" + strings.ToUpper(protocol)
			if i == 0 {
				out[name+"_PORT"] = link
			}
			out[prefix] = link
			out[prefix+"_PROTO"] = strings.ToLower(protocol)
			out[prefix+"_PORT"] = port
			out[prefix+"_ADDR"] = ip
		}
	}
	return out
}

func variable(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
