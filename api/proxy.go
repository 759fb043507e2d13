package api

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/request"
)

var (
	servicesGR = schema.GroupResource{Resource: "services"}
	nodesGR    = schema.GroupResource{Resource: "nodes"}
	slicesGR   = schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}
)

// schemeHeader tells an agent how to speak to a pod.
const schemeHeader = "X-Mgr-Scheme"

// target is where a proxied request goes: an address that is reached from a node.
type target struct{ node, ip, port string }

// servePodProxy proxies to a port of a pod: pods/[http:]name[:port]/proxy/path.
func (s *Server) servePodProxy(w http.ResponseWriter, r *http.Request) {
	s.proxied(w, r, "pod", func(name, port string) (target, error) {
		pod, err := s.pod(r, name)
		if err != nil {
			return target{}, err
		}
		if pod.Spec.NodeName == "" || pod.Status.PodIP == "" {
			return target{}, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address yet", name))
		}
		if port, err = podPort(pod, port); err != nil {
			return target{}, err
		}
		return target{pod.Spec.NodeName, pod.Status.PodIP, port}, nil
	})
}

// podPort resolves a port's name; without one it is the first port that a container declares, or 80.
func podPort(pod *corev1.Pod, port string) (string, error) {
	if _, err := strconv.ParseUint(port, 10, 16); err == nil {
		return port, nil
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if port == "" || p.Name == port {
				return strconv.Itoa(int(p.ContainerPort)), nil
			}
		}
	}
	if port == "" {
		return "80", nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("pod %s has no port named %q", pod.Name, port))
}

// serveServiceProxy proxies to one of a service's ready endpoints: services/[http:]name[:port]/proxy/path.
func (s *Server) serveServiceProxy(w http.ResponseWriter, r *http.Request) {
	s.proxied(w, r, "service", func(name, port string) (target, error) {
		info, _ := request.RequestInfoFrom(r.Context())
		if err := s.reached(r.Context(), s.cfg.Quorum, ""); err != nil {
			return target{}, err
		}
		obj, err := s.Get(r.Context(), servicesGR, info.Namespace, name)
		if err != nil {
			return target{}, err
		}
		svc, ok := obj.(*corev1.Service)
		if !ok {
			return target{}, apierrors.NewInternalError(fmt.Errorf("stored service %s is a %T", name, obj))
		}
		if port, err = servicePort(svc, port); err != nil {
			return target{}, err
		}
		slices, err := s.List(r.Context(), slicesGR, info.Namespace)
		if err != nil {
			return target{}, apierrors.NewInternalError(err)
		}
		var ready []target
		for _, o := range slices {
			if sl, ok := o.(*discoveryv1.EndpointSlice); ok && sl.Labels[discoveryv1.LabelServiceName] == name {
				ready = append(ready, endpointsOf(sl, port)...)
			}
		}
		if len(ready) == 0 {
			return target{}, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
		}
		return ready[rand.IntN(len(ready))], nil
	})
}

// servicePort returns the name of the service's port that is meant: by name, by number, or the only one.
func servicePort(svc *corev1.Service, port string) (string, error) {
	for _, p := range svc.Spec.Ports {
		if p.Name == port || strconv.Itoa(int(p.Port)) == port || (port == "" && len(svc.Spec.Ports) == 1) {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, svc.Name))
}

// endpointsOf lists the ready endpoints of a slice that have the port.
func endpointsOf(sl *discoveryv1.EndpointSlice, port string) []target {
	number := ""
	for _, p := range sl.Ports {
		if p.Port != nil && (p.Name == nil && port == "" || p.Name != nil && *p.Name == port) {
			number = strconv.Itoa(int(*p.Port))
		}
	}
	if number == "" {
		return nil
	}
	var out []target
	for _, e := range sl.Endpoints {
		if (e.Conditions.Ready == nil || *e.Conditions.Ready) && e.NodeName != nil && len(e.Addresses) > 0 {
			out = append(out, target{*e.NodeName, e.Addresses[0], number})
		}
	}
	return out
}

// proxied resolves the name of the path and proxies to what it means.
func (s *Server) proxied(w http.ResponseWriter, r *http.Request, what string, resolve func(name, port string) (target, error)) {
	info, _ := request.RequestInfoFrom(r.Context())
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(info.Name)
	if !ok {
		s.fail(w, r, apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q: it must be [scheme:]name[:port]", what, info.Name)))
		return
	}
	if scheme == "" {
		scheme = "http"
	}
	r.Header.Set(schemeHeader, scheme) // nobody else may say it
	to, err := resolve(name, port)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if !proxyable(to.ip) {
		s.fail(w, r, apierrors.NewBadRequest("address not allowed"))
		return
	}
	prefix, rest := splitProxyPath(r)
	if rest == "" {
		redirectToSlash(w, r)
		return
	}
	host := net.JoinHostPort(to.ip, to.port)
	s.toNode(w, r, to.node, "/podProxy/"+host+rest, r.URL.Query(), &proxy.Transport{Scheme: schemeOf(r), Host: r.Host, PathPrepend: prefix})
}

// proxyable says whether an address may be a pod's: not one of the node itself, nor of the cloud's metadata service
// (CVE-2020-8555).
func proxyable(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() && !ip.IsUnspecified()
}

// serveNodeProxy proxies to any path of a node's agent: nodes/name/proxy/path.
func (s *Server) serveNodeProxy(w http.ResponseWriter, r *http.Request) {
	info, _ := request.RequestInfoFrom(r.Context())
	name, _, _ := strings.Cut(info.Name, ":")
	if _, err := s.Get(r.Context(), nodesGR, "", name); err != nil {
		s.fail(w, r, err)
		return
	}
	prefix, rest := splitProxyPath(r)
	if rest == "" {
		redirectToSlash(w, r)
		return
	}
	s.toNode(w, r, name, rest, r.URL.Query(), &proxy.Transport{Scheme: schemeOf(r), Host: r.Host, PathPrepend: prefix})
}

// splitProxyPath divides the escaped path after "/proxy".
func splitProxyPath(r *http.Request) (prefix, rest string) {
	path := r.URL.EscapedPath()
	i := strings.Index(path, "/proxy")
	if j := strings.Index(path, "/proxy/"); j >= 0 {
		i = j
	}
	if i < 0 {
		return path, ""
	}
	i += len("/proxy")
	return path[:i], path[i:]
}

// redirectToSlash makes relative links of the proxied page work.
func redirectToSlash(w http.ResponseWriter, r *http.Request) {
	u := *r.URL
	u.Path += "/"
	if u.RawPath != "" {
		u.RawPath += "/"
	}
	http.Redirect(w, r, u.RequestURI(), http.StatusMovedPermanently)
}

func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
