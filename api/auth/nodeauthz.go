package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// nodeAuthorizer lets an agent do what its node needs. Where the object's content matters (whose pod is written, what a
// token is bound to), the admission plugin NodeRestriction decides on the object itself; here it is the path.
type nodeAuthorizer struct {
	reader  Reader
	catchUp CatchUp
}

// NodeLeases is the namespace of the nodes' leases.
const NodeLeases = corev1.NamespaceNodeLease

// readable by every agent: what service routing, the pod network and cluster DNS are made of.
var nodeReadable = map[string]bool{
	"/nodes": true, "/namespaces": true, "/services": true, "/endpoints": true,
	"discovery.k8s.io/endpointslices": true, "node.k8s.io/runtimeclasses": true,
}

// authorize returns nil when the agent of node may do it, else the reason why not.
func (n *nodeAuthorizer) authorize(ctx context.Context, node string, a authorizer.Attributes) error {
	if !a.IsResourceRequest() {
		return errors.New("nodes have no rights on this path")
	}
	resource, verb, sub := a.GetAPIGroup()+"/"+a.GetResource(), a.GetVerb(), a.GetSubresource()
	reading := slices.Contains(readVerbs, verb)
	if reading && sub == "" && nodeReadable[resource] {
		return nil
	}
	switch resource {
	case "/nodes":
		return ownNode(node, a)
	case "/pods":
		return n.pods(ctx, node, a)
	case "/secrets", "/configmaps":
		return n.referenced(ctx, node, a, reading && sub == "")
	case "/serviceaccounts":
		return n.referenced(ctx, node, a, verb == "get" && sub == "" || verb == "create" && sub == "token")
	case "/events", "events.k8s.io/events":
		if sub == "" && (verb == "create" || verb == "patch" || verb == "update") {
			return nil
		}
	case "coordination.k8s.io/leases":
		return ownLease(node, a)
	case "certificates.k8s.io/certificatesigningrequests":
		// selfnodeclient is no path: it is the right by which a node's own renewal is approved without a person.
		if sub == "" && (verb == "create" || reading) || sub == "selfnodeclient" && verb == "create" {
			return nil
		}
	}
	return fmt.Errorf("nodes may not %s this resource", verb)
}

// ownNode: an agent writes its own Node object and its status. The name is not in the path of a create: NodeRestriction
// checks it.
func ownNode(node string, a authorizer.Attributes) error {
	switch verb, sub := a.GetVerb(), a.GetSubresource(); {
	case verb == "create" && sub == "":
		return nil
	case (verb == "update" || verb == "patch") && (sub == "" || sub == "status"):
		if a.GetName() == node {
			return nil
		}
		return fmt.Errorf("node %q may write only its own Node object", node)
	}
	return fmt.Errorf("nodes may not %s this resource", a.GetVerb())
}

func ownLease(node string, a authorizer.Attributes) error {
	if a.GetNamespace() != NodeLeases || a.GetSubresource() != "" {
		return fmt.Errorf("nodes may use only their lease in the namespace %s", NodeLeases)
	}
	switch a.GetVerb() {
	case "create":
		return nil
	case "get", "update", "patch", "delete":
		if a.GetName() == node {
			return nil
		}
	}
	return fmt.Errorf("node %q may use only its own lease", node)
}

// pods: an agent sees the pods that are bound to it, and writes their status, deletes and evicts them.
func (n *nodeAuthorizer) pods(ctx context.Context, node string, a authorizer.Attributes) error {
	verb, sub := a.GetVerb(), a.GetSubresource()
	switch {
	case (verb == "list" || verb == "watch") && sub == "":
		if selectsNode(a, node) {
			return nil
		}
		if a.GetName() == "" || a.GetNamespace() == "" {
			return fmt.Errorf("node %q may list and watch pods only with the field selector spec.nodeName=%s", node, node)
		}
		return n.ownPod(ctx, node, a, false)
	case verb == "get" && (sub == "" || sub == "status"):
		return n.ownPod(ctx, node, a, false)
	case verb == "create" && sub == "":
		return nil // mirror pods only: NodeRestriction
	case verb == "delete" && sub == "",
		(verb == "update" || verb == "patch") && sub == "status",
		verb == "create" && sub == "eviction":
		return n.ownPod(ctx, node, a, true)
	}
	return errors.New("nodes may read their pods, write their status, and delete them")
}

// ownPod wants the pod to be bound to the node. A pod that is gone is not refused where writes get 404 anyway.
func (n *nodeAuthorizer) ownPod(ctx context.Context, node string, a authorizer.Attributes, missingOK bool) error {
	return n.catchUp.confirm(ctx, func() error {
		pod, found, err := lookup[*corev1.Pod](ctx, n.reader, pods, a.GetNamespace(), a.GetName())
		switch {
		case err != nil:
			return err
		case found && pod.Spec.NodeName == node, !found && missingOK:
			return nil
		}
		return fmt.Errorf("no such pod is bound to node %q", node)
	})
}

func selectsNode(a authorizer.Attributes, node string) bool {
	requirements, err := a.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range requirements {
		if r.Field == "spec.nodeName" && r.Value == node && (r.Operator == "=" || r.Operator == "==") {
			return true
		}
	}
	return false
}

// referenced: an agent gets an object, by name, that a pod bound to it refers to. Lists and watches carry the name in
// the field selector metadata.name.
func (n *nodeAuthorizer) referenced(ctx context.Context, node string, a authorizer.Attributes, verbOK bool) error {
	if !verbOK {
		return fmt.Errorf("nodes may not %s this resource", a.GetVerb())
	}
	if a.GetName() == "" || a.GetNamespace() == "" {
		return errors.New("nodes may read this resource only by name")
	}
	return n.catchUp.confirm(ctx, func() error {
		list, err := n.reader.List(ctx, pods, a.GetNamespace())
		if err != nil {
			return err
		}
		for _, obj := range list {
			pod, ok := obj.(*corev1.Pod)
			if ok && pod.Spec.NodeName == node && PodRefersTo(pod, a.GetResource(), a.GetName()) {
				return nil
			}
		}
		return fmt.Errorf("no pod bound to node %q refers to this object", node)
	})
}
