package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"mgr/pki"
)

// A node's name belongs to the first key that joined with it. The binding is a Secret in kube-system that records the
// key's hash and, once the agent has registered, the UID of its Node object. Deleting the Node object therefore ends the
// binding at once: the certificate is refused, and only a join token makes a new one.
const (
	NodeKeyNamespace = "kube-system"
	NodeKeyType      = corev1.SecretType("mgr.dev/node-key")
	NodeKeyHash      = "key-sha256" // hex SHA-256 of the public key (pki.KeyHash)
	NodeKeyUID       = "node-uid"   // metadata.uid of the Node; empty until it registered
)

// NodeKeyName is the name of the Secret that binds the name of node.
func NodeKeyName(node string) string { return "mgr-node-key." + node }

// NodeKeys checks agents' certificates against the bindings.
type NodeKeys struct {
	reader  Reader
	catchUp CatchUp
}

// Check refuses a node's certificate whose key is not the one bound to the node's name. The text is for the agent's log.
func (n *NodeKeys) Check(ctx context.Context, peer pki.Peer) error {
	node, ok := peer.Node()
	if !ok {
		return fmt.Errorf("the client certificate belongs to %s but names no node (%q)", pki.OrgNodes, peer.Name)
	}
	sum := sha256.Sum256(peer.Leaf.RawSubjectPublicKeyInfo)
	return n.catchUp.confirm(ctx, func() error { return n.check(ctx, node, hex.EncodeToString(sum[:])) })
}

func (n *NodeKeys) check(ctx context.Context, node, keyHash string) error {
	binding, found, err := lookup[*corev1.Secret](ctx, n.reader, secrets, NodeKeyNamespace, NodeKeyName(node))
	switch {
	case err != nil:
		return fmt.Errorf("checking the certificate of node %q: %w", node, err)
	case !found:
		return fmt.Errorf("node %q is not a member of this cluster any more: join it again with a token", node)
	case string(binding.Data[NodeKeyHash]) != keyHash:
		return fmt.Errorf("the name of node %q belongs to another machine's key: give this machine another name, "+
			"or delete that node and join this one with a token", node)
	}
	current, err := registered(ctx, n.reader, binding, node)
	if err != nil {
		return fmt.Errorf("checking the certificate of node %q: %w", node, err)
	}
	if !current {
		return fmt.Errorf("node %q was deleted: join it again with a token", node)
	}
	return nil
}

// registered says whether the Node object that the binding names still exists; also true before it names one.
func registered(ctx context.Context, r Reader, binding *corev1.Secret, node string) (bool, error) {
	uid := string(binding.Data[NodeKeyUID])
	if uid == "" {
		return true, nil
	}
	obj, found, err := lookup[*corev1.Node](ctx, r, nodes, "", node)
	return found && string(obj.UID) == uid, err
}
