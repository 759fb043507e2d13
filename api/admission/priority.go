package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"mgr/api/auth"
)

// Priorities of the classes that every cluster has. They are answered for even before their objects are made.
const (
	priorityClusterCritical = 2000000000
	priorityNodeCritical    = 2000001000
)

// priority resolves a pod's priority class, or the one that is the default for all, to a number and a preemption policy, and
// sees to it that only one class is the default.
type priority struct {
	*admission.Handler
	reader auth.Reader
}

func (p *priority) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods, "") || a.GetOperation() == admission.Delete {
		return nil
	}
	pod, err := podOf(a)
	if err != nil {
		return err
	}
	if a.GetOperation() == admission.Update {
		return keepPriority(a, pod)
	}
	class, err := p.classOf(ctx, a, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	if given := pod.Spec.Priority; given != nil && *given != class.Value {
		return admission.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; "+
			"priority admission controller computed %d from the given PriorityClass name", *given, class.Value))
	}
	value := class.Value
	pod.Spec.PriorityClassName, pod.Spec.Priority = class.Name, &value
	if class.PreemptionPolicy == nil {
		return nil
	}
	policy := *class.PreemptionPolicy
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != policy {
		return admission.NewForbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; "+
			"priority admission controller computed %s from the given PriorityClass name", *given, policy))
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// keepPriority lets a client that leaves out what was computed for the pod update it.
func keepPriority(a admission.Attributes, pod *corev1.Pod) error {
	old, err := objectOf[*corev1.Pod](a.GetOldObject(), a)
	if err != nil {
		return err
	}
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
	return nil
}

// class is what a pod gets of its priority class.
type class struct {
	Name             string
	Value            int32
	PreemptionPolicy *corev1.PreemptionPolicy
}

func (p *priority) classOf(ctx context.Context, a admission.Attributes, name string) (class, error) {
	lower := corev1.PreemptLowerPriority
	if name == "" {
		c, err := p.globalDefault(ctx)
		if err != nil {
			return class{}, apierrors.NewInternalError(fmt.Errorf("looking for the default priority class: %w", err))
		}
		if c == nil {
			return class{PreemptionPolicy: &lower}, nil
		}
		return class{Name: c.Name, Value: c.Value, PreemptionPolicy: c.PreemptionPolicy}, nil
	}
	c, err := get[*schedulingv1.PriorityClass](ctx, p.reader, priorityClasses, "", name)
	switch {
	case err == nil:
		return class{Name: c.Name, Value: c.Value, PreemptionPolicy: c.PreemptionPolicy}, nil
	case !apierrors.IsNotFound(err):
		return class{}, apierrors.NewInternalError(fmt.Errorf("looking for priority class %s: %w", name, err))
	case name == "system-cluster-critical":
		return class{Name: name, Value: priorityClusterCritical, PreemptionPolicy: &lower}, nil
	case name == "system-node-critical":
		return class{Name: name, Value: priorityNodeCritical, PreemptionPolicy: &lower}, nil
	}
	return class{}, admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", name))
}

// globalDefault is the class of pods that name none; nil: there is none. Of several, made in a race, the lowest counts.
func (p *priority) globalDefault(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	all, err := p.reader.List(ctx, priorityClasses, "")
	if err != nil {
		return nil, err
	}
	var found *schedulingv1.PriorityClass
	for _, obj := range all {
		if c, ok := obj.(*schedulingv1.PriorityClass); ok && c.GlobalDefault && (found == nil || c.Value < found.Value) {
			found = c
		}
	}
	return found, nil
}

// Validate refuses a second default.
func (p *priority) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, priorityClasses, "") || a.GetOperation() == admission.Delete {
		return nil
	}
	c, err := objectOf[*schedulingv1.PriorityClass](a.GetObject(), a)
	if err != nil || !c.GlobalDefault {
		return err
	}
	have, err := p.globalDefault(ctx)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("looking for the default priority class: %w", err))
	}
	if have != nil && (a.GetOperation() == admission.Create || have.Name != c.Name) {
		return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", have.Name))
	}
	return nil
}
