package auth

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// nodeAuthorizer lets an agent do what its node needs: what its pods refer to (nodeGraph), and a few things that every agent
// may. Where the object's content matters (whose pod is written, what a token is bound to), the admission plugin
// NodeRestriction decides on the object itself; here it is the path.
type nodeAuthorizer struct{ graph *nodeGraph }

func newNodeAuthorizer(feed Feed) *nodeAuthorizer { return &nodeAuthorizer{graph: newNodeGraph(feed)} }

// NodeLeases is the namespace of the nodes' leases.
const NodeLeases = corev1.NamespaceNodeLease

// renewPath is where an agent gets its next certificate.
const renewPath = "/mgr/v1/renew"

// nodeMay are the verbs on resources about which every agent may ask: what service routing, the pod network and cluster DNS
// are made of, events, and its certificates.
var nodeMay = map[string][]string{
	"/nodes": readVerbs, "/namespaces": readVerbs, "/services": readVerbs, "/endpoints": readVerbs,
	"discovery.k8s.io/endpointslices":                readVerbs,
	"node.k8s.io/runtimeclasses":                     readVerbs,
	"certificates.k8s.io/clustertrustbundles":        readVerbs,
	"storage.k8s.io/csidrivers":                      readVerbs,
	"/events":                                        {"create", "patch", "update"},
	"events.k8s.io/events":                           {"create", "patch", "update"},
	"certificates.k8s.io/certificatesigningrequests": {"create", "get", "list", "watch"},
	// No path, but the right by which a node's own renewal is approved without a person.
	"certificates.k8s.io/certificatesigningrequests/selfnodeclient": {"create"},
}

var readVerbs = []string{"get", "list", "watch"}

// decide says whether the agent of node may do it, and if not, why.
func (n *nodeAuthorizer) decide(node string, a authorizer.Attributes) (allowed bool, reason string, err error) {
	if !a.IsResourceRequest() {
		return a.GetVerb() == "post" && a.GetPath() == renewPath, "nodes have no rights on this path", nil
	}
	resource, verb, sub := a.GetAPIGroup()+"/"+a.GetResource(), a.GetVerb(), a.GetSubresource()
	whole := resource
	if sub != "" {
		whole += "/" + sub
	}
	if slices.Contains(nodeMay[whole], verb) {
		return true, "", nil
	}
	if rule, ok := nodeRules[resource]; ok {
		reason, err = rule(n, node, a)
		return reason == "" && err == nil, reason, err
	}
	reason, err = refused(a)
	return false, reason, err
}

// nodeRule returns "" when the agent may, else the reason why not.
type nodeRule = func(n *nodeAuthorizer, node string, a authorizer.Attributes) (string, error)

var nodeRules = map[string]nodeRule{
	"/secrets":                                   (*nodeAuthorizer).read,
	"/configmaps":                                (*nodeAuthorizer).read,
	"/persistentvolumeclaims":                    (*nodeAuthorizer).claim,
	"/persistentvolumes":                         (*nodeAuthorizer).get,
	"resource.k8s.io/resourceclaims":             (*nodeAuthorizer).get,
	"storage.k8s.io/volumeattachments":           (*nodeAuthorizer).get,
	"/serviceaccounts":                           (*nodeAuthorizer).account,
	"coordination.k8s.io/leases":                 (*nodeAuthorizer).lease,
	"storage.k8s.io/csinodes":                    (*nodeAuthorizer).csiNode,
	"resource.k8s.io/resourceslices":             (*nodeAuthorizer).slice,
	"/nodes":                                     (*nodeAuthorizer).node,
	"/pods":                                      (*nodeAuthorizer).pod,
	"certificates.k8s.io/podcertificaterequests": (*nodeAuthorizer).certificate,
}

// refused is the reason where there is nothing more to say than that the verb is not for nodes.
func refused(a authorizer.Attributes) (string, error) {
	what := a.GetResource()
	if a.GetSubresource() != "" {
		what += "/" + a.GetSubresource()
	}
	return fmt.Sprintf("nodes may not %s %s", a.GetVerb(), what), nil
}

// named wants the object to have to do with the node.
func (n *nodeAuthorizer) named(node string, a authorizer.Attributes) (string, error) {
	if a.GetName() == "" {
		return "No Object name found", nil
	}
	ok, err := n.graph.related(node, a.GetResource(), a.GetNamespace(), a.GetName())
	if ok || err != nil {
		return "", err
	}
	return fmt.Sprintf("no relationship found between node '%s' and this object", node), nil
}

// get is for what an agent gets one by one.
func (n *nodeAuthorizer) get(node string, a authorizer.Attributes) (string, error) {
	switch {
	case a.GetVerb() != "get":
		return "can only get individual resources of this type", nil
	case a.GetSubresource() != "":
		return "cannot get subresource", nil
	}
	return n.named(node, a)
}

// read is for what an agent may also list and watch, one object at a time: by the field selector metadata.name.
func (n *nodeAuthorizer) read(node string, a authorizer.Attributes) (string, error) {
	switch {
	case !slices.Contains(readVerbs, a.GetVerb()):
		return "can only read resources of this type", nil
	case a.GetSubresource() != "":
		return "cannot read subresource", nil
	case a.GetNamespace() == "":
		return "can only read namespaced object of this type", nil
	}
	return n.named(node, a)
}

func (n *nodeAuthorizer) claim(node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() != "status" {
		return n.get(node, a)
	}
	if v := a.GetVerb(); v != "update" && v != "patch" {
		return "can only get/update/patch this type", nil
	}
	return n.named(node, a)
}

func (n *nodeAuthorizer) account(node string, a authorizer.Attributes) (string, error) {
	switch {
	case a.GetVerb() == "get" && a.GetSubresource() == "":
		return n.read(node, a)
	case a.GetVerb() != "create" || a.GetName() == "":
		return "can only create tokens for individual service accounts", nil
	case a.GetSubresource() != "token":
		return "can only create token subresource of serviceaccount", nil
	}
	return n.named(node, a)
}

// Verbs on an object that has its node's name. On create the name is not in the path: NodeRestriction checks it.
var ownVerbs = []string{"create", "delete", "get", "patch", "update"}

func (n *nodeAuthorizer) lease(node string, a authorizer.Attributes) (string, error) {
	switch {
	case !slices.Contains(ownVerbs, a.GetVerb()) || a.GetSubresource() != "":
		return "can only get, create, update, patch, or delete a node lease", nil
	case a.GetNamespace() != NodeLeases:
		return fmt.Sprintf("can only access leases in the %q system namespace", NodeLeases), nil
	case a.GetVerb() != "create" && a.GetName() != node:
		return "can only access node lease with the same name as the requesting node", nil
	}
	return "", nil
}

func (n *nodeAuthorizer) csiNode(node string, a authorizer.Attributes) (string, error) {
	switch {
	case a.GetSubresource() != "":
		return "cannot authorize CSINode subresources", nil
	case !slices.Contains(ownVerbs, a.GetVerb()):
		return "can only get, create, update, patch, or delete a CSINode", nil
	case a.GetVerb() != "create" && a.GetName() != node:
		return "can only access CSINode with the same name as the requesting node", nil
	}
	return "", nil
}

func (n *nodeAuthorizer) slice(node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() != "" {
		return "cannot authorize ResourceSlice subresources", nil
	}
	switch a.GetVerb() {
	case "create":
		return "", nil // NodeRestriction sees whose it is
	case "get", "update", "patch", "delete":
		return n.named(node, a)
	case "watch", "list", "deletecollection":
		if selects(a, "spec.nodeName", node) {
			return "", nil
		}
		return "can only list/watch/deletecollection resourceslices with nodeName field selector", nil
	}
	return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", nil
}

func (n *nodeAuthorizer) certificate(node string, a authorizer.Attributes) (string, error) {
	if a.GetSubresource() != "" {
		return "nodes may not access the status subresource of PodCertificateRequests", nil
	}
	switch a.GetVerb() {
	case "create":
		return "", nil // NodeRestriction sees for which pod
	case "get":
		return n.named(node, a)
	case "list", "watch":
		if selects(a, "spec.nodeName", node) {
			return "", nil
		}
		return "can only list/watch podcertificaterequests with nodeName field selector", nil
	}
	return refused(a)
}

// node: an agent makes its own Node object and writes it and its status; all nodes are read above.
func (n *nodeAuthorizer) node(node string, a authorizer.Attributes) (string, error) {
	switch verb, sub := a.GetVerb(), a.GetSubresource(); {
	case verb == "create" && sub == "":
		return "", nil
	case (verb == "update" || verb == "patch") && (sub == "" || sub == "status"):
		if a.GetName() == node {
			return "", nil
		}
		return fmt.Sprintf("node %q may write only its own Node object", node), nil
	}
	return refused(a)
}

// pod: an agent sees the pods that are bound to it, and writes their status, deletes and evicts them. Whose pod it is that
// is written, NodeRestriction sees; so a pod that is gone is 404, not 403.
func (n *nodeAuthorizer) pod(node string, a authorizer.Attributes) (string, error) {
	switch verb, sub := a.GetVerb(), a.GetSubresource(); {
	case (verb == "list" || verb == "watch") && sub == "":
		if selects(a, "spec.nodeName", node) {
			return "", nil
		}
		if a.GetName() == "" || a.GetNamespace() == "" {
			return "can only list/watch pods with spec.nodeName field selector", nil
		}
		return n.named(node, a)
	case verb == "get" && (sub == "" || sub == "status"):
		return n.named(node, a)
	case (verb == "create" || verb == "delete") && sub == "",
		(verb == "update" || verb == "patch") && sub == "status",
		verb == "create" && sub == "eviction":
		return "", nil
	}
	return refused(a)
}

// selects says whether a request is limited by a field selector to objects whose field has the value.
func selects(a authorizer.Attributes, field, value string) bool {
	requirements, err := a.GetFieldSelector()
	return err == nil && slices.ContainsFunc(requirements, func(r fields.Requirement) bool {
		return r.Field == field && r.Value == value && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals)
	})
}
