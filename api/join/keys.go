package join

import (
	"context"
	"crypto"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"mgr/api/auth"
	"mgr/pki"
)

// keyJoined is when a binding was made or renewed (RFC 3339).
const keyJoined = "joined"

// registerWithin is how long a name stays with a key whose machine has not registered its Node object yet.
const registerWithin = 15 * time.Minute

var nodes = schema.GroupResource{Resource: "nodes"}

// keys binds node names to keys; auth.NodeKeys checks the bindings.
type keys struct {
	reader auth.Reader
	client func() kubernetes.Interface
	now    func() time.Time
}

// bind gives the name of node to the holder of pub, unless another machine has it (409).
func (k *keys) bind(ctx context.Context, node string, pub crypto.PublicKey) error {
	hash, err := pki.KeyHash(pub)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	api := k.client().CoreV1().Secrets(auth.NodeKeyNamespace)
	fresh := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: auth.NodeKeyName(node), Namespace: auth.NodeKeyNamespace},
		Type:       auth.NodeKeyType,
		Data: map[string][]byte{auth.NodeKeyHash: []byte(hash), auth.NodeKeyUID: nil,
			keyJoined: []byte(k.now().UTC().Format(time.RFC3339))},
	}
	_, err = api.Create(ctx, fresh, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return wrap(err, "binding the name of node %q", node)
	}
	old, err := api.Get(ctx, fresh.Name, metav1.GetOptions{})
	if err != nil {
		return wrap(err, "reading who node %q is", node)
	}
	uid, err := k.nodeUID(ctx, node)
	if err != nil {
		return wrap(err, "reading who node %q is", node)
	}
	bound := string(old.Data[auth.NodeKeyUID])
	same := string(old.Data[auth.NodeKeyHash]) == hash
	if same && bound != "" && bound == uid {
		return nil
	}
	if !same && k.taken(old, bound, uid) {
		return conflict(node)
	}
	fresh.ResourceVersion = old.ResourceVersion
	if _, err = api.Update(ctx, fresh, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
		return conflict(node) // two machines of one name joined at once; the other one was first
	}
	return wrap(err, "binding the name of node %q", node)
}

// taken says whether the binding still counts: its Node exists, or was not registered yet but still may be.
func (k *keys) taken(binding *corev1.Secret, bound, uid string) bool {
	if bound != "" {
		return bound == uid
	}
	joined, err := time.Parse(time.RFC3339, string(binding.Data[keyJoined]))
	return uid != "" || err == nil && k.now().Before(joined.Add(registerWithin))
}

// nodeUID is the UID of the Node object, "" when there is none.
func (k *keys) nodeUID(ctx context.Context, node string) (string, error) {
	obj, err := k.client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return string(obj.UID), nil
}

// check refuses a key that is not the one bound to the name of node, or whose Node object is gone (403).
func (k *keys) check(ctx context.Context, node string, pub crypto.PublicKey) error {
	hash, err := pki.KeyHash(pub)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	binding, err := k.client().CoreV1().Secrets(auth.NodeKeyNamespace).Get(ctx, auth.NodeKeyName(node), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return wrap(err, "reading who node %q is", node)
	}
	if err != nil || string(binding.Data[auth.NodeKeyHash]) != hash {
		return forbidden(fmt.Sprintf("the certificate request is not made with the key that node %q joined with; to change keys, join again", node))
	}
	if bound := string(binding.Data[auth.NodeKeyUID]); bound != "" {
		uid, err := k.nodeUID(ctx, node)
		if err != nil {
			return wrap(err, "reading who node %q is", node)
		}
		if uid != bound {
			return forbidden(fmt.Sprintf("node %q was deleted: join it again with a token", node))
		}
	}
	return nil
}

// registered notes the UID of the Node object with which a joined machine registered, so that deleting that object ends
// its membership. It writes once in the life of a node; admission.Config.NodeRegistered calls it.
func (k *keys) registered(ctx context.Context, node string, uid types.UID) error {
	obj, err := k.reader.Get(ctx, secrets, auth.NodeKeyNamespace, auth.NodeKeyName(node))
	if apierrors.IsNotFound(err) {
		return nil // not joined by a token: nothing to end
	}
	if err != nil {
		return wrap(err, "reading who node %q is", node)
	}
	binding, ok := obj.(*corev1.Secret)
	if !ok || len(binding.Data[auth.NodeKeyUID]) > 0 {
		return nil
	}
	next := binding.DeepCopy()
	next.Data[auth.NodeKeyUID] = []byte(uid)
	_, err = k.client().CoreV1().Secrets(auth.NodeKeyNamespace).Update(ctx, next, metav1.UpdateOptions{})
	return wrap(err, "noting that node %q registered", node)
}

func conflict(node string) error {
	return apierrors.NewConflict(nodes, node, fmt.Errorf("another machine has joined under this name: give this one another name "+
		"(--node-name), or remove that node first (mgr delete node %s)", node))
}

// wrap keeps API errors as they are and says of others what was being done.
func wrap(err error, format string, args ...any) error {
	if err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		return err
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

// maxNodeName leaves room for the prefix of the binding's name.
const maxNodeName = 200

func validNodeName(name string) error {
	if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("node name %q is not valid: %s", name, strings.Join(errs, "; ")))
	}
	if len(name) > maxNodeName {
		return apierrors.NewBadRequest(fmt.Sprintf("node name has %d characters, at most %d are allowed", len(name), maxNodeName))
	}
	return nil
}

func validMasterID(id string) error {
	if errs := validation.IsDNS1123Label(id); len(errs) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("master id %q is not valid: %s", id, strings.Join(errs, "; ")))
	}
	return nil
}
