package resource

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutil "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

func validateIngress(f *findings, i, old *networkingv1.Ingress) {
	metadataAnew(f, i, old, true, apivalidation.NameIsDNSSubdomain)
	path, s := field.NewPath("spec"), &i.Spec
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		f.invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if s.DefaultBackend != nil {
		f.ingressBackend(path.Child("defaultBackend"), s.DefaultBackend)
	}
	anyWildcard := old != nil && slices.ContainsFunc(old.Spec.Rules, badWildcardRule)
	for n := range s.Rules {
		f.ingressRule(path.Child("rules").Index(n), &s.Rules[n], anyWildcard)
	}
	anySecret := old != nil && slices.ContainsFunc(old.Spec.TLS, func(t networkingv1.IngressTLS) bool { return len(badSecretName(t.SecretName)) > 0 })
	for n, t := range s.TLS {
		at := path.Child("tls").Index(n)
		for m, host := range t.Hosts {
			f.host(at.Child("hosts").Index(m), host)
		}
		if !anySecret {
			f.invalid(at.Child("secretName"), t.SecretName, badSecretName(t.SecretName)...)
		}
	}
	class := s.IngressClassName
	if class != nil {
		f.dnsSubdomain(path.Child("ingressClassName"), *class)
	}
	if annotated, found := i.Annotations[ingressClassAnnotation]; old == nil && found && class != nil && annotated != *class {
		f.invalid(field.NewPath("annotations", ingressClassAnnotation), annotated, "must match `ingressClassName` when both are specified")
	}
}

// badWildcardRule: rules of wildcard hosts were not looked at once, and when they were, service names began with a letter.
func badWildcardRule(r networkingv1.IngressRule) bool {
	if !strings.Contains(r.Host, "*") || r.HTTP == nil {
		return false
	}
	var f findings
	f.ingressPaths(nil, r.HTTP)
	for _, p := range r.HTTP.Paths {
		if s := p.Backend.Service; s != nil {
			f.invalid(nil, s.Name, validation.IsDNS1035Label(s.Name)...)
		}
	}
	return len(f.list) > 0
}

func badSecretName(name string) []string {
	if name == "" {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

func (f *findings) host(path *field.Path, host string) {
	if strings.Contains(host, "*") {
		f.invalid(path, host, validation.IsWildcardDNS1123Subdomain(host)...)
		return
	}
	f.dnsSubdomain(path, host)
}

// notAddress refuses IP addresses, however they are written.
func (f *findings) notAddress(path *field.Path, host string) {
	if netutil.ParseIPSloppy(host) != nil {
		f.invalid(path, host, "must be a DNS name, not an IP address")
	}
}

func (f *findings) ingressRule(path *field.Path, r *networkingv1.IngressRule, anyWildcard bool) {
	if r.Host != "" {
		f.notAddress(path.Child("host"), r.Host)
		f.host(path.Child("host"), r.Host)
	}
	if !anyWildcard || !strings.Contains(r.Host, "*") {
		f.ingressPaths(path.Child("http"), r.HTTP)
	}
}

func (f *findings) ingressPaths(path *field.Path, http *networkingv1.HTTPIngressRuleValue) {
	if http == nil {
		return
	}
	if len(http.Paths) == 0 {
		f.required(path.Child("paths"), "")
	}
	for i := range http.Paths {
		f.ingressPath(path.Child("paths").Index(i), &http.Paths[i])
	}
}

func (f *findings) ingressPath(at *field.Path, p *networkingv1.HTTPIngressPath) {
	path := at.Child("path")
	if p.PathType == nil {
		f.required(at.Child("pathType"), "pathType must be specified")
		return
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			f.invalid(path, p.Path, "must be an absolute path")
		}
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				f.invalid(path, p.Path, fmt.Sprintf("must not contain '%s'", part))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				f.invalid(path, p.Path, fmt.Sprintf("cannot end with '%s'", end))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			f.invalid(path, p.Path, "must be an absolute path")
		}
	default:
		f.add(field.NotSupported(at.Child("pathType"), *p.PathType,
			[]networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	f.ingressBackend(at.Child("backend"), &p.Backend)
}

func (f *findings) ingressBackend(path *field.Path, b *networkingv1.IngressBackend) {
	switch {
	case b.Resource != nil && b.Service != nil:
		f.invalid(path, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		f.localReference(path.Child("resource"), b.Resource)
	case b.Service != nil:
		f.serviceBackend(path, b.Service)
	default:
		f.invalid(path, "", "resource or service backend is required")
	}
}

// serviceBackend: findings about which port there is stand at the backend, as in Kubernetes.
func (f *findings) serviceBackend(path *field.Path, s *networkingv1.IngressServiceBackend) {
	service := path.Child("service")
	if f.given(service.Child("name"), s.Name) {
		f.dnsLabel(service.Child("name"), s.Name)
	}
	switch name, number := s.Port.Name, s.Port.Number; {
	case name != "" && number != 0:
		f.invalid(path, "", "cannot set both port name & port number")
	case name != "":
		f.invalid(service.Child("port", "name"), name, validation.IsValidPortName(name)...)
	case number != 0:
		f.port(service.Child("port", "number"), number)
	default:
		f.required(path, "port name or number is required")
	}
}

func (f *findings) localReference(path *field.Path, r *corev1.TypedLocalObjectReference) {
	if r.APIGroup != nil {
		f.dnsSubdomain(path.Child("apiGroup"), *r.APIGroup)
	}
	f.segment(path.Child("kind"), r.Kind)
	f.segment(path.Child("name"), r.Name)
}

// segment is a required part of an API path.
func (f *findings) segment(path *field.Path, name string) {
	if f.given(path, name) {
		f.invalid(path, name, content.IsPathSegmentName(name)...)
	}
}

func validateIngressStatus(f *findings, i, old *networkingv1.Ingress) {
	metadata(f, i, old, true, apivalidation.NameIsDNSSubdomain)
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	for n, in := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if in.IP != "" {
			f.add(validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, before)...)
		}
		if in.Hostname != "" {
			f.dnsSubdomain(at.Child("hostname"), in.Hostname)
			f.notAddress(at.Child("hostname"), in.Hostname)
		}
	}
}

func validateIngressClass(f *findings, c, old *networkingv1.IngressClass) {
	const longest = 250
	metadataAnew(f, c, old, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	controller := path.Child("controller")
	if len(c.Spec.Controller) > longest {
		f.add(field.TooLong(controller, "", longest))
	}
	f.add(validation.IsDomainPrefixedPath(controller, c.Spec.Controller)...)
	if c.Spec.Parameters != nil {
		f.ingressParameters(path.Child("parameters"), c.Spec.Parameters)
	}
	if old != nil {
		f.immutable(controller, c.Spec.Controller, old.Spec.Controller)
	}
}

func (f *findings) ingressParameters(path *field.Path, p *networkingv1.IngressClassParametersReference) {
	f.localReference(path, &corev1.TypedLocalObjectReference{APIGroup: p.APIGroup, Kind: p.Kind, Name: p.Name})
	const cluster, namespace = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	at := path.Child("namespace")
	switch scope := ptr.Deref(p.Scope, ""); {
	case p.Scope == nil:
		f.required(path.Child("scope"), "")
	case scope == namespace && p.Namespace == nil:
		f.required(at, "`parameters.scope` is set to 'Namespace'")
	case scope == namespace:
		f.dnsLabel(at, *p.Namespace)
	case scope != cluster:
		f.add(field.NotSupported(path.Child("scope"), scope, []string{cluster, namespace}))
	case p.Namespace != nil:
		f.forbidden(at, "`parameters.scope` is set to 'Cluster'")
	}
}
