package api

import (
	"context"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"mgr/resource"
)

// The metrics API (metrics.k8s.io) says what nodes and pods use at this moment. Nothing of it is stored: every master asks the
// agents, through the connections that they keep open, when somebody asks it (see usageAsker). A node that does not answer in time
// is left out, as are pods that do not run yet.

// usageRow is a row that only the API server knows: what it shows is measured, so it can be read and nothing else.
func usageRow(resourceName, kind string, namespaced bool, new, newList func() runtime.Object) *resource.Kind {
	return &resource.Kind{
		GroupVersionResource: metricsv1beta1.SchemeGroupVersion.WithResource(resourceName), Kind: kind, Namespaced: namespaced,
		Verbs: []string{"get", "list"}, New: new, NewList: newList,
		Columns: []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: "Name of what is measured"},
			{Name: "CPU", Type: "string", Description: "Processors in use, over the window"},
			{Name: "Memory", Type: "string", Description: "Working set: memory that cannot be taken back at once"},
			{Name: "Window", Type: "string", Description: "Time over which the use of processors was measured"},
		},
		Cells: usageCells,
	}
}

func usageCells(obj runtime.Object, _ time.Time) []any {
	switch m := obj.(type) {
	case *metricsv1beta1.NodeMetrics:
		return usageLine(m.Name, m.Window, m.Usage)
	case *metricsv1beta1.PodMetrics:
		return usageLine(m.Name, m.Window, sumUsage(m.Containers))
	}
	return nil
}

func usageLine(name string, window metav1.Duration, use corev1.ResourceList) []any {
	return []any{name, use.Cpu().String(), use.Memory().String(), window.Duration.String()}
}

func sumUsage(containers []metricsv1beta1.ContainerMetrics) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for i := range containers {
		for name, q := range containers[i].Usage {
			have := sum[name]
			have.Add(q)
			sum[name] = have
		}
	}
	return sum
}

// usageEndpoints serves them; nodes and pods are the endpoints whose objects select and name what is shown.
func (s *Server) usageEndpoints(nodes, pods *endpoint) []*endpoint {
	ask := newUsageAsker(s.connected, s.log)
	return []*endpoint{
		s.usageEndpoint(usageRow("nodes", "NodeMetrics", false,
			func() runtime.Object { return &metricsv1beta1.NodeMetrics{} }, func() runtime.Object { return &metricsv1beta1.NodeMetricsList{} }),
			&nodeUsage{usageOf{of: nodes.store, ask: ask}}),
		s.usageEndpoint(usageRow("pods", "PodMetrics", true,
			func() runtime.Object { return &metricsv1beta1.PodMetrics{} }, func() runtime.Object { return &metricsv1beta1.PodMetricsList{} }),
			&podUsage{usageOf{of: pods.store, ask: ask}}),
	}
}

// usageStore is what the handlers need of either.
type usageStore interface {
	rest.Getter
	rest.Lister
}

func (s *Server) usageEndpoint(k *resource.Kind, st usageStore) *endpoint {
	scope := s.scope(k, "")
	return &endpoint{kind: k, scope: scope, verbs: map[string]http.Handler{
		"get":  perRequest(func() http.HandlerFunc { return handlers.GetResource(st, scope) }),
		"list": perRequest(func() http.HandlerFunc { return handlers.ListResource(st, nil, scope, false, minWatch) }),
	}}
}

// usageOf is what the two have in common.
type usageOf struct {
	of  *store // of the objects that are measured
	ask *usageAsker
}

// selected lists the objects that are asked for. What is measured has no revision and no pages.
func (u *usageOf) selected(ctx context.Context, options *internalversion.ListOptions) ([]runtime.Object, error) {
	o := &internalversion.ListOptions{}
	if options != nil {
		o.LabelSelector, o.FieldSelector = options.LabelSelector, options.FieldSelector
	}
	list, err := u.of.List(ctx, o)
	if err != nil {
		return nil, err
	}
	return meta.ExtractList(list)
}

func (u *usageOf) found(ctx context.Context, name string) (runtime.Object, error) {
	obj, err := u.of.Get(ctx, name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, u.none(name)
	}
	return obj, err
}

func (u *usageOf) none(name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: metricsv1beta1.GroupName, Resource: u.of.kind.Resource}, name)
}

// describes makes the metadata of a measurement: the object's name and labels, and the time.
func describes(of metav1.Object, at metav1.Time) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: of.GetName(), Namespace: of.GetNamespace(), Labels: of.GetLabels(), CreationTimestamp: at}
}

// ConvertToTable implements rest.TableConvertor; the scope has its own.
func (u *usageOf) ConvertToTable(context.Context, runtime.Object, runtime.Object) (*metav1.Table, error) {
	return nil, apierrors.NewInternalError(fmt.Errorf("tables are made by the path's scope"))
}

type nodeUsage struct{ usageOf }

var _ usageStore = &nodeUsage{}

// NewList implements rest.Lister.
func (u *nodeUsage) NewList() runtime.Object { return &metricsv1beta1.NodeMetricsList{} }

// Get implements rest.Getter.
func (u *nodeUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := u.found(ctx, name)
	if err != nil {
		return nil, err
	}
	all := u.measure(ctx, []runtime.Object{node})
	if len(all) == 0 {
		return nil, u.none(name)
	}
	return &all[0], nil
}

// List implements rest.Lister.
func (u *nodeUsage) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	nodes, err := u.selected(ctx, options)
	if err != nil {
		return nil, err
	}
	return &metricsv1beta1.NodeMetricsList{Items: u.measure(ctx, nodes)}, nil
}

func (u *nodeUsage) measure(ctx context.Context, objs []runtime.Object) []metricsv1beta1.NodeMetrics {
	var names []string
	for _, o := range objs {
		if n, ok := o.(*corev1.Node); ok {
			names = append(names, n.Name)
		}
	}
	answers := u.ask.nodes(ctx, names)
	out := []metricsv1beta1.NodeMetrics{}
	for _, o := range objs {
		n, ok := o.(*corev1.Node)
		if !ok || answers[n.Name] == nil {
			continue
		}
		m := *answers[n.Name]
		m.ObjectMeta = describes(n, metav1.Now())
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

type podUsage struct{ usageOf }

var _ usageStore = &podUsage{}

// NewList implements rest.Lister.
func (u *podUsage) NewList() runtime.Object { return &metricsv1beta1.PodMetricsList{} }

// Get implements rest.Getter.
func (u *podUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	pod, err := u.found(ctx, name)
	if err != nil {
		return nil, err
	}
	all := u.measure(ctx, []runtime.Object{pod})
	if len(all) == 0 {
		return nil, u.none(name)
	}
	return &all[0], nil
}

// List implements rest.Lister.
func (u *podUsage) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	pods, err := u.selected(ctx, options)
	if err != nil {
		return nil, err
	}
	return &metricsv1beta1.PodMetricsList{Items: u.measure(ctx, pods)}, nil
}

func (u *podUsage) measure(ctx context.Context, objs []runtime.Object) []metricsv1beta1.PodMetrics {
	on := map[string]bool{}
	var pods []*corev1.Pod
	for _, o := range objs {
		if p, ok := o.(*corev1.Pod); ok && p.Spec.NodeName != "" && p.Status.Phase == corev1.PodRunning {
			pods = append(pods, p)
			on[p.Spec.NodeName] = true
		}
	}
	answers := u.ask.pods(ctx, on)
	measured := map[string]map[types.UID]*metricsv1beta1.PodMetrics{} // a node is believed about its own pods only
	for node, answer := range answers {
		measured[node] = make(map[types.UID]*metricsv1beta1.PodMetrics, len(answer.Items))
		for i := range answer.Items {
			measured[node][answer.Items[i].UID] = &answer.Items[i]
		}
	}
	out := []metricsv1beta1.PodMetrics{}
	for _, p := range pods {
		found := measured[p.Spec.NodeName][p.UID]
		if found == nil { // a static pod is known by its manifest's
			found = measured[p.Spec.NodeName][types.UID(p.Annotations[corev1.MirrorPodAnnotationKey])]
		}
		if found == nil || len(found.Containers) == 0 {
			continue
		}
		m := *found
		m.ObjectMeta = describes(p, metav1.Now())
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool {
		if n := strings.Compare(out[i].Namespace, out[j].Namespace); n != 0 {
			return n < 0
		}
		return out[i].Name < out[j].Name
	})
	return out
}
