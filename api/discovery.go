package api

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/gorilla/mux"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"

	"mgr/resource"
)

// discoveryRoutes serve what the table says, in the older form (a document for each group and version) and the
// aggregated one (KEP-3352). A subresource without a handler is not shown.
func (s *Server) discoveryRoutes(r *mux.Router) {
	groups := discovery.NewRootAPIsHandler(addresses, s.codecs)
	core, named := aggregated.NewResourceManager("api"), aggregated.NewResourceManager("apis")
	for i, gv := range s.groupVersions() {
		list := discovery.NewAPIVersionHandler(s.codecs, gv, discovery.APIResourceListerFunc(func() []metav1.APIResource { return s.apiResources(gv) }))
		about := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: s.aggregated(gv)}
		if gv.Group == "" {
			core.AddGroupVersion("", about)
			route(r, "/api/"+gv.Version, list)
			continue
		}
		named.AddGroupVersion(gv.Group, about)
		named.SetGroupVersionPriority(metav1.GroupVersion(gv), 1000-i, versionPriority(gv.Version))
		route(r, "/apis/"+gv.Group+"/"+gv.Version, list)
	}
	for _, g := range s.apiGroups() {
		groups.AddGroup(g)
		route(r, "/apis/"+g.Name, discovery.NewAPIGroupHandler(s.codecs, g))
	}
	route(r, "/api", aggregated.WrapAggregatedDiscoveryToHandler(discovery.NewLegacyRootAPIHandler(addresses, s.codecs, "/api"), core, nil))
	route(r, "/apis", aggregated.WrapAggregatedDiscoveryToHandler(groups, named, nil))
}

// route serves a discovery document with and without a slash at its end.
func route(r *mux.Router, path string, h http.Handler) {
	r.Path(path).Methods(http.MethodGet, http.MethodHead).Handler(h)
	r.Path(path+"/").Methods(http.MethodGet, http.MethodHead).Handler(h)
}

// addresses: clients keep to the address they came to.
var addresses = discovery.DefaultAddresses{}

// versionPriority puts v2 before v1 and both before v1beta1.
func versionPriority(v string) int {
	n := 1
	for _, better := range []string{"v1beta1", "v1beta2", "v1", "v2"} {
		n++
		if v == better {
			return n
		}
	}
	return 1
}

// groupVersions in the order of the table.
func (s *Server) groupVersions() []schema.GroupVersion {
	var out []schema.GroupVersion
	for _, k := range s.kinds {
		if gv := k.GroupVersion(); !slices.Contains(out, gv) {
			out = append(out, gv)
		}
	}
	return out
}

// apiGroups are the named groups with their versions, preferred first.
func (s *Server) apiGroups() []metav1.APIGroup {
	var out []metav1.APIGroup
	for _, gv := range s.groupVersions() {
		if gv.Group == "" {
			continue
		}
		i := slices.IndexFunc(out, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
		if i < 0 {
			out = append(out, metav1.APIGroup{Name: gv.Group})
			i = len(out) - 1
		}
		out[i].Versions = append(out[i].Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	for i := range out {
		slices.SortStableFunc(out[i].Versions, func(a, b metav1.GroupVersionForDiscovery) int {
			return cmp.Compare(versionPriority(b.Version), versionPriority(a.Version))
		})
		out[i].PreferredVersion = out[i].Versions[0]
	}
	return out
}

// rows of a group and version that have handlers.
func (s *Server) rows(gv schema.GroupVersion) []*resource.Kind {
	var out []*resource.Kind
	for _, k := range s.kinds {
		if k.GroupVersion() == gv {
			out = append(out, k)
		}
	}
	return out
}

// subKind is the kind of a subresource's body.
func subKind(k *resource.Kind, sub *resource.Subresource) schema.GroupVersionKind {
	if sub.Kind.Empty() {
		return k.GVK()
	}
	return sub.Kind
}

func (s *Server) apiResources(gv schema.GroupVersion) []metav1.APIResource {
	var out []metav1.APIResource
	for _, k := range s.rows(gv) {
		out = append(out, metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind,
			Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories,
			StorageVersionHash: discovery.StorageVersionHash(k.Group, k.Version, k.Kind),
		})
		for i := range k.Subresources {
			sub := &k.Subresources[i]
			if s.byGVR[k.GroupVersionResource].subs[sub.Name] == nil {
				continue
			}
			r := metav1.APIResource{Name: k.Resource + "/" + sub.Name, Namespaced: k.Namespaced, Kind: subKind(k, sub).Kind, Verbs: sub.Verbs}
			if other := subKind(k, sub).GroupVersion(); other != gv {
				r.Group, r.Version = other.Group, other.Version
			}
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b metav1.APIResource) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (s *Server) aggregated(gv schema.GroupVersion) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	for _, k := range s.rows(gv) {
		d := apidiscoveryv2.APIResourceDiscovery{
			Resource: k.Resource, ResponseKind: responseKind(gv, k.GVK()), Scope: apidiscoveryv2.ScopeCluster, SingularResource: k.Singular,
			Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories,
		}
		if k.Namespaced {
			d.Scope = apidiscoveryv2.ScopeNamespace
		}
		for i := range k.Subresources {
			sub := &k.Subresources[i]
			if s.byGVR[k.GroupVersionResource].subs[sub.Name] == nil {
				continue
			}
			d.Subresources = append(d.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub.Name, ResponseKind: responseKind(gv, subKind(k, sub)), Verbs: sub.Verbs})
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b apidiscoveryv2.APIResourceDiscovery) int { return cmp.Compare(a.Resource, b.Resource) })
	return out
}

// responseKind names only the kind where group and version are those of the list, as kube-apiserver does.
func responseKind(gv schema.GroupVersion, kind schema.GroupVersionKind) *metav1.GroupVersionKind {
	if kind.GroupVersion() == gv {
		return &metav1.GroupVersionKind{Kind: kind.Kind}
	}
	k := metav1.GroupVersionKind(kind)
	return &k
}
