package oracle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	_ "k8s.io/kubernetes/pkg/api/testing" // registers every group
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"
)

// attributes are a kind's labels and selectable fields.
type attributes = func(obj runtime.Object) (labels.Set, fields.Set, error)

// strategy is what the strategies of Kubernetes' registries have in common.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// counterpart is what Kubernetes registers for one of our rows.
type counterpart struct {
	main strategy
	sub  map[string]rest.RESTUpdateStrategy // by name of the subresource
	// attrs is nil for kinds that can only be selected by name and namespace.
	attrs attributes
}

type subresources = map[string]rest.RESTUpdateStrategy

func status(s rest.RESTUpdateStrategy) subresources { return subresources{"status": s} }

// upstream returns Kubernetes' counterpart of a resource, whatever its version.
func upstream(r schema.GroupResource) (counterpart, bool) {
	groups := map[string]func(string) (counterpart, bool){
		"": upstreamCore, "apps": upstreamApps, "resource.k8s.io": upstreamDRA, "storage.k8s.io": upstreamStorage,
		"networking.k8s.io": upstreamNetworking, "rbac.authorization.k8s.io": upstreamRBAC,
	}
	if in, ok := groups[r.Group]; ok {
		return in(r.Resource)
	}
	return upstreamOther(r)
}

func upstreamCore(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"configmaps":             {configmap.Strategy, nil, configmap.GetAttrs},
		"endpoints":              {endpoint.Strategy, nil, nil},
		"events":                 {event.Strategy, nil, event.GetAttrs},
		"limitranges":            {limitrange.Strategy, nil, nil},
		"namespaces":             {namespace.Strategy, subresources{"status": namespace.StatusStrategy, "finalize": namespace.FinalizeStrategy}, namespace.GetAttrs},
		"nodes":                  {node.Strategy, status(node.StatusStrategy), node.GetAttrs},
		"persistentvolumes":      {persistentvolume.Strategy, status(persistentvolume.StatusStrategy), persistentvolume.GetAttrs},
		"persistentvolumeclaims": {persistentvolumeclaim.Strategy, status(persistentvolumeclaim.StatusStrategy), persistentvolumeclaim.GetAttrs},
		"pods": {pod.Strategy, subresources{"status": pod.StatusStrategy, "ephemeralcontainers": pod.EphemeralContainersStrategy,
			"resize": pod.ResizeStrategy}, pod.GetAttrs},
		"podtemplates":           {podtemplate.Strategy, nil, nil},
		"replicationcontrollers": {replicationcontroller.Strategy, status(replicationcontroller.StatusStrategy), replicationcontroller.GetAttrs},
		"resourcequotas":         {resourcequota.Strategy, status(resourcequota.StatusStrategy), nil},
		"secrets":                {secret.Strategy, nil, secret.GetAttrs},
		"services":               {service.Strategy, status(service.StatusStrategy), service.GetAttrs},
		"serviceaccounts":        {serviceaccount.Strategy, nil, nil},
	}[name]
	return c, ok
}

func upstreamApps(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"controllerrevisions": {controllerrevision.Strategy, nil, nil},
		"daemonsets":          {daemonset.Strategy, status(daemonset.StatusStrategy), nil},
		"deployments":         {deployment.Strategy, status(deployment.StatusStrategy), nil},
		"replicasets":         {replicaset.Strategy, status(replicaset.StatusStrategy), replicaset.GetAttrs},
		"statefulsets":        {statefulset.Strategy, status(statefulset.StatusStrategy), nil},
	}[name]
	return c, ok
}

func upstreamNetworking(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"ingresses":       {ingress.Strategy, status(ingress.StatusStrategy), nil},
		"ingressclasses":  {ingressclass.Strategy, nil, nil},
		"ipaddresses":     {ipaddress.Strategy, nil, nil},
		"networkpolicies": {networkpolicy.Strategy, nil, nil},
		"servicecidrs":    {servicecidr.Strategy, status(servicecidr.StatusStrategy), nil},
	}[name]
	return c, ok
}

func upstreamRBAC(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"clusterroles":        {clusterrole.Strategy, nil, nil},
		"clusterrolebindings": {clusterrolebinding.Strategy, nil, nil},
		"roles":               {role.Strategy, nil, nil},
		"rolebindings":        {rolebinding.Strategy, nil, nil},
	}[name]
	return c, ok
}

func upstreamStorage(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"csidrivers":              {csidriver.Strategy, nil, nil},
		"csinodes":                {csinode.Strategy, nil, nil},
		"csistoragecapacities":    {csistoragecapacity.Strategy, nil, nil},
		"storageclasses":          {storageclass.Strategy, nil, nil},
		"volumeattachments":       {volumeattachment.Strategy, status(volumeattachment.StatusStrategy), nil},
		"volumeattributesclasses": {volumeattributesclass.Strategy, nil, nil},
	}[name]
	return c, ok
}

func upstreamDRA(name string) (counterpart, bool) {
	claims := resourceclaim.NewStrategy(labelled{}, nil)
	c, ok := map[string]counterpart{
		"deviceclasses":          {deviceclass.Strategy, nil, nil},
		"devicetaintrules":       {devicetaintrule.Strategy, status(devicetaintrule.StatusStrategy), nil},
		"resourceclaims":         {claims, status(resourceclaim.NewStatusStrategy(claims)), resourceclaim.GetAttrs},
		"resourceclaimtemplates": {resourceclaimtemplate.NewStrategy(labelled{}), nil, resourceclaimtemplate.GetAttrs},
		"resourceslices":         {resourceslice.Strategy, nil, resourceslice.GetAttrs},
	}[name]
	return c, ok
}

func upstreamOther(r schema.GroupResource) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"cronjobs.batch": {cronjob.Strategy, status(cronjob.StatusStrategy), nil},
		"jobs.batch":     {job.Strategy, status(job.StatusStrategy), job.GetAttrs},
		"horizontalpodautoscalers.autoscaling": {horizontalpodautoscaler.Strategy,
			status(horizontalpodautoscaler.StatusStrategy), nil},
		"certificatesigningrequests.certificates.k8s.io": {certificates.Strategy,
			subresources{"status": certificates.StatusStrategy, "approval": certificates.ApprovalStrategy}, certificates.GetAttrs},
		"leases.coordination.k8s.io":                       {lease.Strategy, nil, nil},
		"endpointslices.discovery.k8s.io":                  {endpointslice.Strategy, nil, nil},
		"events.events.k8s.io":                             {event.Strategy, nil, event.GetAttrs},
		"runtimeclasses.node.k8s.io":                       {runtimeclass.Strategy, nil, nil},
		"poddisruptionbudgets.policy":                      {poddisruptionbudget.Strategy, status(poddisruptionbudget.StatusStrategy), nil},
		"priorityclasses.scheduling.k8s.io":                {priorityclass.Strategy, nil, nil},
		"storageversionmigrations.storagemigration.k8s.io": {storagemigration.Strategy, status(storagemigration.StatusStrategy), nil},
		"flowschemas.flowcontrol.apiserver.k8s.io":         {flowschema.Strategy, status(flowschema.StatusStrategy), nil},
		"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": {prioritylevelconfiguration.Strategy,
			status(prioritylevelconfiguration.StatusStrategy), nil},
	}[r.String()]
	return c, ok
}

// labelled is a client that finds every namespace, without the label that allows admin access to devices.
type labelled struct {
	corev1client.NamespaceInterface
}

func (labelled) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
}
