package resource

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Kind is one row of the table: everything the API server has to know about one served resource. A row is data and
// pure functions; HTTP, storage and identity belong to package api. Functions may be nil where nothing is to be done.
type Kind struct {
	schema.GroupVersionResource        // as served: {"apps","v1","deployments"}
	Kind                        string // "Deployment"
	Singular                    string // "deployment"
	ShortNames                  []string
	Categories                  []string
	Namespaced                  bool
	Verbs                       []string // empty: all of AllVerbs

	New     func() runtime.Object // empty object of the served version
	NewList func() runtime.Object

	// Stored names the row whose objects this one serves in another version or group (events.k8s.io → core events); nil
	// for a row with storage of its own. Encode and Decode convert between the two; both return new objects.
	Stored     *Kind
	ToStored   func(served runtime.Object) (runtime.Object, error)
	FromStored func(stored runtime.Object) (runtime.Object, error)

	// Default sets what the user left out; called on every decoded object, before admission.
	Default func(obj runtime.Object)
	Rules
	// Options that the tags of k8s.io/api ask for in their conditions (package declared); nil: none is set.
	Options func(obj, old runtime.Object) map[string]bool
	// Written says that Validate has every declared rule by hand already: the declared ones are not run.
	Written bool
	// Subresources by name, each with a path of its own below the object.
	Subresources []Subresource

	// Allocate fills in what the cluster assigns (cluster IP, node ports, pod CIDR), after admission and before
	// validation; old is nil on create. Claims lists the names the object holds exclusively (fsm.Op.Claims).
	Allocate func(obj, old runtime.Object, from Allocator) error
	Claims   func(obj runtime.Object) []string

	// Graceful says whether a delete only marks the object, and for how many seconds (pods); it may set
	// options.GracePeriodSeconds. nil: deletes take effect at once (finalizers apart).
	Graceful func(obj runtime.Object, options *metav1.DeleteOptions) bool
	// Propagation of a delete that does not ask for one. "" means background.
	Propagation metav1.DeletionPropagation
	// TTL after which the object expires when it is not updated (events); 0: never.
	TTL time.Duration

	// CreateOnUpdate allows PUT to a name that does not exist; UnconditionalUpdate allows PUT without resourceVersion.
	CreateOnUpdate, UnconditionalUpdate bool

	// Fields are the selectable fields besides metadata.name and metadata.namespace.
	Fields func(obj runtime.Object) fields.Set

	// Columns and Cells make the table that kubectl get shows; now is for ages. nil Columns: name and creation time.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj runtime.Object, now time.Time) []any
	// Marked names the object of a list that the list shows as "(default)"; "" for none.
	Marked func(all []runtime.Object) string
}

// AllVerbs are the verbs of a row that names none.
var AllVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Rules are the write rules of one path (the object itself, or a subresource that updates it). old is nil on create.
type Rules struct {
	// Prepare drops what this path may not set (status on the main path, everything else on /status) and keeps
	// metadata.generation. It changes obj.
	Prepare func(ctx context.Context, obj, old runtime.Object)
	// Validate refuses bad objects with Kubernetes' field paths and texts.
	Validate func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// Warn returns texts for Warning headers.
	Warn func(ctx context.Context, obj, old runtime.Object) []string
}

// Subresource is a path below an object. One with Rules updates the object itself (status); the others (scale, binding,
// token, log, exec, …) have code in package api and are listed here for discovery and authorization.
type Subresource struct {
	Name  string
	Kind  schema.GroupVersionKind // of the body; zero: the row's own
	Verbs []string
	Rules *Rules
}

// Allocator hands out values that no stored object claims and no other request in flight has been given. Spaces are
// "clusterip", "nodeport" (value: decimal port) and "podcidr"; a full space is an error.
type Allocator interface {
	Pick(space string) (string, error)
	// Check says why a value that the user chose is not in the space's range; nil: it may be used.
	Check(space, value string) error
}

// GVK of the served object.
func (k *Kind) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// Storage is the name under which the state machine keeps the row's objects: "pods", "deployments.apps".
func (k *Kind) Storage() string {
	if k.Stored != nil {
		return k.Stored.Storage()
	}
	return k.GroupResource().String()
}
