package api

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"mgr/fsm"
	"mgr/resource"
)

// Binding assigns one pod to a node.
type Binding struct {
	Namespace, Name string
	UID             string // of the pod; "": whichever has the name
	Node            string
}

var podsGR = schema.GroupResource{Resource: "pods"}

// bindBatch is how many pods one command of the log assigns; a command is refused as a whole.
const bindBatch = 256

// Bind assigns many pods in few log entries. The result has an error for each binding, nil where it was made; the errors
// are those of the binding subresource (404, 409). term fences the writes.
func (s *Server) Bind(ctx context.Context, term uint64, bindings []Binding) []error {
	out := make([]error, len(bindings))
	ctx = context.WithValue(ctx, termKey, term)
	for from := 0; from < len(bindings); from += bindBatch {
		to := min(from+bindBatch, len(bindings))
		s.bindBatch(ctx, bindings[from:to], out[from:to])
	}
	return out
}

// bindBatch proposes what can be bound; what the state machine refuses is looked at anew, the rest proposed again.
func (s *Server) bindBatch(ctx context.Context, bindings []Binding, out []error) {
	todo := make([]int, len(bindings))
	for i := range todo {
		todo[i] = i
	}
	for len(todo) > 0 {
		var ops []fsm.Op
		var of []int
		for _, i := range todo {
			b := &bindings[i]
			op, err := s.bindOp(s.cfg.Quorum, b.Namespace, b.Name, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{UID: types.UID(b.UID)}, Target: corev1.ObjectReference{Name: b.Node}})
			if out[i] = err; err == nil {
				ops, of = append(ops, op), append(of, i)
			}
		}
		if len(ops) == 0 {
			return
		}
		_, err := s.propose(ctx, s.cfg.Quorum, ops...)
		var r *refused
		switch {
		case err == nil:
			return
		case errors.As(err, &r) && (r.Reason == fsm.ReasonConflict || r.Reason == fsm.ReasonNotFound):
			todo = of
		default:
			for _, i := range of {
				out[i] = err
			}
			return
		}
	}
}

func podRow() *resource.Kind { return resource.Storage("pods") }

// bind is the binding subresource.
func (st *store) bind(ctx context.Context, name string, binding *corev1.Binding, dry bool) error {
	return st.settle(ctx, name, func(*fsm.Object) error {
		q := st.quorum(ctx)
		op, err := st.s.bindOp(q, st.key(ctx, name).Namespace, name, binding)
		if err != nil || dry {
			return err
		}
		_, err = st.write(ctx, q, op)
		return err
	})
}

// bindOp makes the write that assigns a pod.
func (s *Server) bindOp(q Quorum, namespace, name string, b *corev1.Binding) (fsm.Op, error) {
	o := q.FSM().State().Get(fsm.Key{Resource: "pods", Namespace: namespace, Name: name})
	if o == nil {
		return fsm.Op{}, apierrors.NewNotFound(podsGR, name)
	}
	d, err := decodedOf(podRow(), o)
	if err != nil {
		return fsm.Op{}, apierrors.NewInternalError(err)
	}
	old, ok := d.obj.(*corev1.Pod)
	if !ok {
		return fsm.Op{}, apierrors.NewInternalError(fmt.Errorf("stored pod %s/%s is a %T", namespace, name, d.obj))
	}
	if err := mayBind(old, b); err != nil {
		return fsm.Op{}, apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, name, err)
	}
	pod := old.DeepCopy()
	pod.Spec.NodeName = b.Target.Name
	for k, v := range b.Annotations {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
	}
	for k, v := range b.Labels {
		metav1.SetMetaDataLabel(&pod.ObjectMeta, k, v)
	}
	if n := q.FSM().State().Get(fsm.Key{Resource: "nodes", Name: b.Target.Name}); n != nil {
		if d, err := decodedOf(resource.Storage("nodes"), n); err == nil {
			if node, ok := d.obj.(*corev1.Node); ok {
				resource.CopyTopology(pod, node)
			}
		}
	}
	setScheduled(pod)
	op := fsm.Op{Verb: fsm.Update, Key: o.Key, UID: o.UID, If: fsm.Precondition{Revision: o.Revision}, Form: form{podRow(), pod}}
	if op.Data, op.RevisionAt, err = encode(pod); err != nil {
		return fsm.Op{}, apierrors.NewInternalError(err)
	}
	return op, nil
}

// mayBind says why a pod cannot be assigned.
func mayBind(pod *corev1.Pod, b *corev1.Binding) error {
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return errModified
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	return nil
}

// setScheduled says that the pod has a node.
func setScheduled(pod *corev1.Pod) {
	setPodCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation})
}
