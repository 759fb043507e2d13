package resource

import (
	"fmt"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// ingressClassAnnotation named the class before spec.ingressClassName did.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

func ingress() *Kind {
	k := row[networkingv1.Ingress, networkingv1.IngressList](networkingv1.SchemeGroupVersion, "Ingress", "ingresses", "ing")
	spec := func(i *networkingv1.Ingress) *networkingv1.IngressSpec { return &i.Spec }
	status := func(i *networkingv1.Ingress) *networkingv1.IngressStatus { return &i.Status }
	k.Rules = Rules{
		Prepare:  preparing(keepStatus(spec, status)),
		Validate: validating(checked(validateIngress)),
		Warn: warning(func(i, old *networkingv1.Ingress) []string {
			if _, annotated := i.Annotations[ingressClassAnnotation]; old == nil && annotated && i.Spec.IngressClassName == nil {
				return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ingressClassAnnotation)}
			}
			return nil
		}),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare:  preparing(keepSpec(spec)),
		Validate: validating(checked(validateIngressStatus)),
		Warn: warning(func(i, _ *networkingv1.Ingress) []string {
			var warnings []string
			for n, in := range i.Status.LoadBalancer.Ingress {
				if in.IP != "" {
					warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(n), in.IP)...)
				}
			}
			return warnings
		}),
	})}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
		text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
		text("Address", "Address is a list containing ingress points for the load-balancer"),
		text("Ports", "Ports of TLS configurations that open"),
		ageColumn(),
	}
	k.Cells = printing(ingressCells)
	return k
}

func ingressCells(i *networkingv1.Ingress, now time.Time) []any {
	balancers := sets.New[string]()
	for _, in := range i.Status.LoadBalancer.Ingress {
		balancers.Insert(or(in.IP, in.Hostname))
	}
	ports := "80"
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{i.Name, ptr.Deref(i.Spec.IngressClassName, none), ingressHosts(i.Spec.Rules),
		strings.Join(sets.List(balancers.Delete("")), ","), ports, age(i.CreationTimestamp, now)}
}

// ingressHosts names the first three hosts; rules without one count, once there are three, as more.
func ingressHosts(rules []networkingv1.IngressRule) string {
	const shown = 3
	var hosts []string
	for i, r := range rules {
		if len(hosts) == shown {
			return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-shown)
		}
		if r.Host != "" {
			hosts = append(hosts, rules[i].Host)
		}
	}
	return or(strings.Join(hosts, ","), "*")
}

func ingressClass() *Kind {
	k := clusterRow[networkingv1.IngressClass, networkingv1.IngressClassList](networkingv1.SchemeGroupVersion, "IngressClass", "ingressclasses")
	k.Default = defaulting(func(c *networkingv1.IngressClass) {
		if c.Spec.Parameters != nil {
			setDefaultPtr(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	})
	k.Rules = Rules{
		Prepare:  preparing(countSpec(func(c *networkingv1.IngressClass) *networkingv1.IngressClassSpec { return &c.Spec })),
		Validate: validating(checked(validateIngressClass)),
	}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Controller", "Controller that is responsible for handling this class"),
		text("Parameters", "A reference to a resource with additional parameters"),
		ageColumn(),
	}
	k.Cells = printing(func(c *networkingv1.IngressClass, now time.Time) []any {
		name, parameters := c.Name, none
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			name += " (default)"
		}
		if p := c.Spec.Parameters; p != nil {
			parameters = p.Kind
			if p.APIGroup != nil {
				parameters += "." + *p.APIGroup
			}
			parameters += "/" + p.Name
		}
		return []any{name, c.Spec.Controller, parameters, age(c.CreationTimestamp, now)}
	})
	return k
}
