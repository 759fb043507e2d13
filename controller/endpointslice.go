package controller

import (
	"context"
	"fmt"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
)

const (
	endpointSliceManager   = "endpointslice-controller.k8s.io"
	maxEndpointsPerSlice   = 100
	endpointWorkers        = 5
	staleEndpointSliceLook = 100 * time.Millisecond
)

// endpointSlices keeps the slices of every service that has a selector. What goes into which slice is decided by
// k8s.io/endpointslice; this feeds it.
type endpointSlices struct {
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	slices   discoverylisters.EndpointSliceLister
	// tracker knows the generations of the slices written, so that a stale cache is noticed.
	tracker    *endpointsliceutil.EndpointSliceTracker
	reconciler *endpointslice.Reconciler
}

func newEndpointSlices(f informers.SharedInformerFactory, client kubernetes.Interface, events record.EventRecorder) Controller {
	c := &endpointSlices{
		services: f.Core().V1().Services().Lister(),
		pods:     f.Core().V1().Pods().Lister(),
		slices:   f.Discovery().V1().EndpointSlices().Lister(),
		tracker:  endpointsliceutil.NewEndpointSliceTracker(),
	}
	c.reconciler = endpointslice.NewReconciler(client, f.Core().V1().Nodes().Lister(), maxEndpointsPerSlice, c.tracker, nil, events,
		endpointSliceManager, endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	return Controller{
		Name:    "endpointslice",
		Workers: endpointWorkers,
		Inputs: []Input{
			{Informer: f.Core().V1().Services().Informer(), Keys: objectKey},
			{Informer: f.Core().V1().Pods().Informer(), Keys: servicesOfPod(c.services)},
			{Informer: f.Discovery().V1().EndpointSlices().Informer(), Keys: c.serviceOfSlice},
		},
		Outputs:   []Output{{Resource: "endpointslices.discovery.k8s.io", Scope: "managed by " + endpointSliceManager}},
		Reconcile: c.reconcile,
	}
}

func (c *endpointSlices) serviceOfSlice(old, new any) []string {
	slice, ok := new.(*discoveryv1.EndpointSlice)
	if !ok {
		if slice, ok = old.(*discoveryv1.EndpointSlice); !ok {
			return nil
		}
		if c.reconciler.ManagedByController(slice) {
			c.tracker.HandleDeletion(slice)
		}
	}
	was, _ := old.(*discoveryv1.EndpointSlice)
	if !c.reconciler.ManagedByController(slice) && (was == nil || !c.reconciler.ManagedByController(was)) {
		return nil
	}
	key, err := endpointslice.ServiceControllerKey(slice)
	if err != nil {
		return nil
	}
	return []string{key}
}

func (c *endpointSlices) reconcile(ctx context.Context, key string) error {
	ns, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := c.services.Services(ns).Get(name)
	if apierrors.IsNotFound(err) {
		// Its slices carry an owner reference; the garbage collector takes them.
		c.tracker.DeleteService(ns, name)
		c.reconciler.DeleteService(ns, name)
		return nil
	}
	if err != nil || !managesEndpoints(service) {
		return err
	}
	pods, err := c.pods.Pods(ns).List(labels.ValidatedSetSelector(service.Spec.Selector))
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	all, err := c.slices.EndpointSlices(ns).List(labels.Set{
		discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: endpointSliceManager,
	}.AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list endpoint slices: %w", err)
	}
	if c.tracker.StaleSlices(service, all) {
		return Again(staleEndpointSliceLook)
	}
	var slices []*discoveryv1.EndpointSlice
	for _, s := range all {
		if s.DeletionTimestamp == nil {
			slices = append(slices, s)
		}
	}
	return c.reconciler.Reconcile(klog.FromContext(ctx), service, pods, slices, time.Time{})
}
