package controller

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// serviceCIDRFinalizer keeps a network that services have addresses of.
const serviceCIDRFinalizer = "networking.k8s.io/service-cidr-finalizer"

// newServiceCIDRs keeps the object that tells from which network services get their addresses, and says of every other one
// that nothing is assigned from it: the masters assign addresses of the network they were started with, and the state machine
// keeps what is taken (docs/adr/0001).
func newServiceCIDRs(f informers.SharedInformerFactory, client kubernetes.Interface, services netip.Prefix) Controller {
	cidrs := f.Networking().V1().ServiceCIDRs()
	return Controller{
		Name:   "service-cidr",
		Start:  []string{kubernetesName},
		Inputs: []Input{{Informer: cidrs.Informer(), Keys: objectKey}},
		Outputs: []Output{
			{Resource: "servicecidrs.networking.k8s.io", Scope: "named kubernetes"},
			{Resource: "servicecidrs.networking.k8s.io", Field: "status"},
		},
		Reconcile: func(ctx context.Context, name string) error {
			found, err := cidrs.Lister().Get(name)
			if apierrors.IsNotFound(err) && name == kubernetesName {
				_, err = client.NetworkingV1().ServiceCIDRs().Create(ctx, &networkingv1.ServiceCIDR{
					ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{serviceCIDRFinalizer}},
					Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{services.Masked().String()}},
				}, metav1.CreateOptions{})
				return ignoreCreate(err)
			}
			if err != nil {
				return ignoreNotFound(err)
			}
			changed := found.DeepCopy()
			if !meta.SetStatusCondition(&changed.Status.Conditions, serviceCIDRReady(found, services)) {
				return nil
			}
			if _, err := client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, changed, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
				return fmt.Errorf("report on the service network %s: %w", name, ignoreNotFound(err))
			}
			return nil
		},
	}
}

// serviceCIDRReady says whether services get addresses of a network.
func serviceCIDRReady(c *networkingv1.ServiceCIDR, services netip.Prefix) metav1.Condition {
	ready := metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready",
		LastTransitionTime: metav1.NewTime(time.Now()),
	}
	switch own := c.Name == kubernetesName; {
	case own && c.DeletionTimestamp != nil:
		ready.Status, ready.Reason = metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating
		ready.Message = "There are still services with addresses of this network"
	case !own:
		ready.Status, ready.Reason = metav1.ConditionFalse, "NotSupported"
		ready.Message = fmt.Sprintf("Services get their addresses from %s, which the masters were started with", services.Masked())
	}
	return ready
}
