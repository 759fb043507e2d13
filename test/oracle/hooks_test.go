package oracle

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	api "k8s.io/kubernetes/pkg/apis/core"
	trustbundlestore "k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle/storage"
	certificatestore "k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest/storage"
	claimstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	"k8s.io/utils/clock"
)

const (
	serviceRange        = "10.43.0.0/16"
	firstPort, lastPort = 30000, 32767
)

// storeOf returns Kubernetes' store of the few kinds for which it does something besides running a strategy: services get
// addresses and ports before, claims are completed when they are read. nil for others.
func storeOf(resource string) (*genericregistry.Store, error) {
	options := generic.RESTOptions{StorageConfig: &storagebackend.ConfigForResource{}, Decorator: nowhere, ResourcePrefix: resource}
	switch resource {
	case "persistentvolumeclaims":
		r, _, err := claimstore.NewREST(options)
		if err != nil {
			return nil, err
		}
		return r.Store, nil
	case "clustertrustbundles":
		r, err := trustbundlestore.NewREST(options)
		if err != nil {
			return nil, err
		}
		return r.Store, nil
	case "podcertificaterequests":
		r, _, err := certificatestore.NewREST(options, authorizerfactory.NewAlwaysAllowAuthorizer(), clock.RealClock{})
		if err != nil {
			return nil, err
		}
		return r.Store, nil
	case "services":
		_, network, err := net.ParseCIDR(serviceRange)
		if err != nil {
			return nil, err
		}
		addresses, err := ipallocator.NewInMemory(network)
		if err != nil {
			return nil, err
		}
		ports, err := portallocator.NewInMemory(utilnet.PortRange{Base: firstPort, Size: lastPort - firstPort + 1})
		if err != nil {
			return nil, err
		}
		r, _, _, err := servicestore.NewREST(options, api.IPv4Protocol,
			map[api.IPFamily]ipallocator.Interface{api.IPv4Protocol: addresses}, ports, nil, nil, nil)
		if err != nil {
			return nil, err
		}
		return r.Store, nil
	}
	return nil, nil
}

// nowhere is the storage of stores that are never asked to store.
func nowhere(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
	storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	return nil, func() {}, nil
}

// begin runs what Kubernetes does before the strategy.
func (a act) begin(c counterpart, obj, old runtime.Object) error {
	var finish genericregistry.FinishFunc
	var err error
	ctx := a.requestContext(&recorder{})
	if m, _ := meta.Accessor(obj); m.GetNamespace() != request.NamespaceValue(ctx) {
		return nil // the handlers would have refused it already
	}
	switch {
	case c.store == nil || a.sub != "":
	case old == nil && c.store.BeginCreate != nil:
		finish, err = c.store.BeginCreate(ctx, obj, &metav1.CreateOptions{})
	case old != nil && c.store.BeginUpdate != nil:
		finish, err = c.store.BeginUpdate(ctx, obj, old, &metav1.UpdateOptions{})
	}
	if finish != nil {
		finish(ctx, false) // the next act finds everything free again
	}
	return err
}

// ranges assigns on our side, from the same spaces; which values is not compared.
type ranges struct{ picked int }

func (r *ranges) Pick(space string) (string, error) {
	r.picked++
	switch space {
	case "clusterip":
		return fmt.Sprintf("10.43.77.%d", r.picked), nil
	case "nodeport":
		return strconv.Itoa(32700 + r.picked), nil
	case "podcidr":
		return fmt.Sprintf("10.42.%d.0/24", r.picked), nil
	}
	return "", fmt.Errorf("no space %q", space)
}

func (*ranges) Check(space, value string) error {
	switch space {
	case "clusterip":
		if ip, err := netip.ParseAddr(value); err != nil || !netip.MustParsePrefix(serviceRange).Contains(ip) {
			return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", value, serviceRange)
		}
	case "nodeport":
		if port, err := strconv.Atoi(value); err != nil || port < firstPort || port > lastPort {
			return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", firstPort, lastPort)
		}
	}
	return nil
}

// momentary replaces what another moment would have made otherwise: the time at which the phase of a volume changed, and the
// name of a limit range that was sent without one.
func momentary(object any, sent ...runtime.Object) {
	const changed = "lastPhaseTransitionTime"
	given, named := map[any]bool{}, false
	for _, obj := range sent {
		if obj != nil {
			given[child(plain(obj), "status")[changed]] = true
			named = named || child(plain(obj), "metadata")["name"] != nil
		}
	}
	if s := child(object, "status"); s[changed] != nil && !given[s[changed]] {
		s[changed] = "now"
	}
	if m := child(object, "metadata"); m["name"] != nil && !named {
		m["name"] = "random"
	}
}

// assigned replaces values that the cluster chose, that is, which no sent object has, in the places where it does.
func assigned(object any, sent ...runtime.Object) {
	spec := child(object, "spec")
	given := map[any]bool{}
	for _, obj := range sent {
		if obj == nil {
			continue
		}
		s := child(plain(obj), "spec")
		for _, at := range places(s) {
			given[at.m[at.key]] = true
		}
		if l, ok := s["clusterIPs"].([]any); ok {
			for _, ip := range l {
				given[ip] = true
			}
		}
	}
	const chosen = "chosen by the cluster"
	for _, at := range places(spec) {
		if !given[at.m[at.key]] {
			at.m[at.key] = chosen
		}
	}
	if l, ok := spec["clusterIPs"].([]any); ok {
		for i := range l {
			if !given[l[i]] {
				l[i] = chosen
			}
		}
	}
}

type spot struct {
	m   map[string]any
	key string
}

// places of a service's spec that hold one assigned value.
func places(spec map[string]any) []spot {
	var all []spot
	for _, key := range []string{"clusterIP", "healthCheckNodePort"} {
		if _, ok := spec[key]; ok {
			all = append(all, spot{spec, key})
		}
	}
	ports, _ := spec["ports"].([]any)
	for _, p := range ports {
		if m, ok := p.(map[string]any); ok && m["nodePort"] != nil {
			all = append(all, spot{m, "nodePort"})
		}
	}
	return all
}

func child(v any, key string) map[string]any {
	m, _ := v.(map[string]any)
	c, _ := m[key].(map[string]any)
	return c
}

// now replaces the times of transitions that no sent object has: those of the write.
func now(object any, sent ...runtime.Object) {
	given := map[any]bool{}
	for _, obj := range sent {
		if obj != nil {
			times(plain(obj), func(m map[string]any, key string) { given[m[key]] = true })
		}
	}
	times(object, func(m map[string]any, key string) {
		if !given[m[key]] {
			m[key] = "now"
		}
	})
}

// times visits the fields that strategies set to the time of the write.
func times(v any, visit func(m map[string]any, key string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			switch key {
			case "lastTransitionTime", "lastUpdateTime", "timeAdded":
				visit(v, key)
			default:
				times(value, visit)
			}
		}
	case []any:
		for _, value := range v {
			times(value, visit)
		}
	}
}
