package resource

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
)

func service() *Kind {
	k := row[corev1.Service, corev1.ServiceList](corev1.SchemeGroupVersion, "Service", "services", "svc")
	k.Categories = []string{"all"}
	k.CreateOnUpdate = true
	k.Rules = Rules{
		Prepare: preparing(func(s, old *corev1.Service) {
			if old == nil {
				s.Status = corev1.ServiceStatus{}
				return
			}
			s.Status = old.Status
			dropServiceLeftovers(s, old)
		}),
		Validate: validating(checked(validateService)),
		Warn:     func(_ context.Context, obj, _ runtime.Object) []string { return warnService(as[corev1.Service](obj)) },
	}
	k.Subresources = []Subresource{
		{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("ServiceProxyOptions"),
			Verbs: []string{"create", "delete", "get", "patch", "update"}},
		statusRules(Rules{
			Prepare:  preparing(keepSpec(func(s *corev1.Service) *corev1.ServiceSpec { return &s.Spec })),
			Validate: validating(checked(validateServiceStatus)),
		}),
	}
	k.Default = defaulting(defaultService)
	k.Allocate = allocateService
	k.Claims = reading(serviceClaims)
	k.Fields = reading(func(s *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	})
	k.Columns = serviceColumns()
	k.Cells = printing(serviceCells)
	return k
}

// serviceClaims are the addresses and node ports that no other service may have.
func serviceClaims(s *corev1.Service) []string {
	var claims []string
	for _, ip := range s.Spec.ClusterIPs {
		if ip != "" && ip != corev1.ClusterIPNone {
			claims = append(claims, "clusterip/"+ip)
		}
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			claims = append(claims, nodePortClaim(p.NodePort, p.Protocol))
		}
	}
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		claims = append(claims, nodePortClaim(p, corev1.ProtocolTCP))
	}
	return claims
}

func nodePortClaim(port int32, protocol corev1.Protocol) string {
	return "nodeport/" + strconv.Itoa(int(port)) + "/" + string(protocol)
}

func serviceColumns() []metav1.TableColumnDefinition {
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		nameColumn(),
		text("Type", doc["type"]),
		text("Cluster-IP", doc["clusterIP"]),
		text("External-IP", doc["externalIPs"]),
		text("Port(s)", doc["ports"]),
		ageColumn(),
		wide(text("Selector", doc["selector"])),
	}
}

func serviceCells(s *corev1.Service, now time.Time) []any {
	clusterIP := none
	if len(s.Spec.ClusterIPs) > 0 {
		clusterIP = s.Spec.ClusterIPs[0]
	}
	ports := make([]string, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return []any{s.Name, string(s.Spec.Type), clusterIP, externalAddress(s), or(strings.Join(ports, ","), none),
		age(s.CreationTimestamp, now), labels.FormatLabels(s.Spec.Selector)}
}

func externalAddress(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		if len(s.Spec.ExternalIPs) == 0 {
			return none
		}
		return strings.Join(s.Spec.ExternalIPs, ",")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		balancers := sets.New[string]()
		for _, in := range s.Status.LoadBalancer.Ingress {
			balancers.Insert(or(in.IP, in.Hostname))
		}
		all := append(sets.List(balancers.Delete("")), s.Spec.ExternalIPs...)
		if len(all) == 0 {
			return "<pending>"
		}
		return strings.Join(all, ",")
	}
	return unknown
}
