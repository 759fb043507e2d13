// Package resource is the table of kinds: one row for each resource that the API server serves, with its names,
// defaults, write rules, subresources, selectable fields and table columns.
//
// # Contract
//
// A row is data and pure functions of the objects they are given: no clock (Cells is told the time; timeOf is for
// the few rules that Kubernetes ties to the present), no I/O, no state. Default, Prepare, Allocate and Graceful change the
// object they are called with and nothing else; Validate, Claims, Fields and Cells read. Every function takes the row's
// own type (Kind.New) and treats a nil old object as "this is a create". Objects read from the store are shared: hand a
// deep copy to whatever changes its argument.
//
// Adding a kind is one line in table.go and one small file named after its API group. Field paths, causes and texts of
// validation are Kubernetes', so that clients and tests that match on them work unchanged.
package resource

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Scheme knows the Go types of every row (it is client-go's), and those of the metrics API, which has no rows: nothing of it is
// stored.
var Scheme *runtime.Scheme = withMetrics(scheme.Scheme)

func withMetrics(s *runtime.Scheme) *runtime.Scheme {
	utilruntime.Must(metricsv1beta1.AddToScheme(s))
	return s
}

// table is built once and never changes.
var table = assemble()

type index struct {
	rows []*Kind
	gvr  map[schema.GroupVersionResource]*Kind
	gvk  map[schema.GroupVersionKind]*Kind
	// stored are the rows with storage of their own, by its name: asked several times for each write.
	stored map[string]*Kind
}

func assemble() index {
	event, autoscaler := coreEvent(), horizontalPodAutoscaler()
	rows := []*Kind{
		namespace(), node(), pod(), podTemplates(), service(), endpoints(), replicationController(),
		configMap(), secret(), serviceAccount(), event,
		replicaSet(), deployment(), daemonSet(), statefulSet(), controllerRevision(),
		autoscaler, horizontalPodAutoscalerV1(autoscaler), job(), cronJob(),
		podDisruptionBudget(), priorityClass(), runtimeClass(),
		endpointSlice(), lease(), eventsEvent(event),
		role(), clusterRole(), roleBinding(), clusterRoleBinding(),
		deviceClass(), resourceClaim(), resourceClaimTemplate(), resourceSlice(), deviceTaintRule(),
		certificateSigningRequest(), podCertificateRequest(), clusterTrustBundle(),
		persistentVolume(), persistentVolumeClaim(), resourceQuota(), limitRange(),
		storageClass(), volumeAttachment(), volumeAttributesClass(), csiDriver(), csiNode(), csiStorageCapacity(),
		ingress(), ingressClass(), networkPolicy(), ipAddress(), serviceCIDR(),
		flowSchema(), priorityLevel(), storageVersionMigration(),
	}
	t := index{
		rows: rows,
		gvr:  make(map[schema.GroupVersionResource]*Kind, len(rows)),
		gvk:  make(map[schema.GroupVersionKind]*Kind, len(rows)),

		stored: make(map[string]*Kind, len(rows)),
	}
	for _, k := range rows {
		declare(k)
		t.gvr[k.GroupVersionResource] = k
		t.gvk[k.GVK()] = k
		if k.Stored == nil {
			t.stored[k.Storage()] = k
		}
	}
	return t
}

// All returns the rows in the order of the table. The rows are shared: do not change them.
func All() []*Kind { return slices.Clone(table.rows) }

// Lookup returns the row served as gvr, nil when there is none.
func Lookup(gvr schema.GroupVersionResource) *Kind { return table.gvr[gvr] }

// LookupKind returns the row of the given kind, nil when there is none.
func LookupKind(gvk schema.GroupVersionKind) *Kind { return table.gvk[gvk] }

// Storage returns the row whose objects the state machine keeps under the given name ("pods", "deployments.apps").
func Storage(name string) *Kind { return table.stored[name] }
