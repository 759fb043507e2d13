package controller

import (
	"context"
	"fmt"

	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"mgr/resource"
)

// newPriorityClasses keeps the priority classes that every cluster has.
func newPriorityClasses(f informers.SharedInformerFactory, client kubernetes.Interface) Controller {
	classes := f.Scheduling().V1().PriorityClasses()
	want, start := map[string]*schedulingv1.PriorityClass{}, []string{}
	for _, c := range resource.SystemPriorityClasses() {
		want[c.Name] = c
		start = append(start, c.Name)
	}
	return Controller{
		Name:  "system-priority-classes",
		Start: start,
		Inputs: []Input{{Informer: classes.Informer(), Keys: func(old, new any) []string {
			if c, ok := old.(*schedulingv1.PriorityClass); ok && new == nil && want[c.Name] != nil {
				return []string{c.Name}
			}
			return nil
		}}},
		Outputs: []Output{{Resource: "priorityclasses.scheduling.k8s.io", Scope: "of the system"}},
		Reconcile: func(ctx context.Context, name string) error {
			if _, err := classes.Lister().Get(name); !apierrors.IsNotFound(err) {
				return err
			}
			_, err := client.SchedulingV1().PriorityClasses().Create(ctx, want[name].DeepCopy(), metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create priority class %s: %w", name, err)
			}
			return nil
		},
	}
}
