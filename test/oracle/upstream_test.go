package oracle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	_ "k8s.io/kubernetes/pkg/api/testing" // registers nearly every group
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
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
	"k8s.io/utils/clock"
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
	// store is set for kinds with more than strategies (hooks_test.go).
	store *genericregistry.Store
}

type subresources = map[string]rest.RESTUpdateStrategy

func status(s rest.RESTUpdateStrategy) subresources { return subresources{"status": s} }

// upstream returns Kubernetes' counterpart of a resource, whatever its version.
func upstream(r schema.GroupResource) (counterpart, bool) {
	groups := map[string]func(string) (counterpart, bool){
		"": upstreamCore, "apps": upstreamApps, "resource.k8s.io": upstreamDRA, "storage.k8s.io": upstreamStorage,
		"networking.k8s.io": upstreamNetworking, "rbac.authorization.k8s.io": upstreamRBAC,
	}
	c, ok := upstreamOther(r)
	if in := groups[r.Group]; in != nil {
		c, ok = in(r.Resource)
	}
	if r.Group == "" || r.Resource == "podcertificaterequests" || r.Resource == "clustertrustbundles" {
		store, err := storeOf(r.Resource)
		if err != nil {
			return c, false
		}
		c.store = store
		if store != nil && c.attrs == nil { // the registry keeps it to itself
			c.attrs = store.PredicateFunc(labels.Everything(), fields.Everything()).GetAttrs
		}
	}
	return c, ok
}

func upstreamCore(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"configmaps":  {main: configmap.Strategy, attrs: configmap.GetAttrs},
		"endpoints":   {main: endpoint.Strategy},
		"events":      {main: event.Strategy, attrs: event.GetAttrs},
		"limitranges": {main: limitrange.Strategy},
		"namespaces":  {main: namespace.Strategy, sub: subresources{"status": namespace.StatusStrategy, "finalize": namespace.FinalizeStrategy}, attrs: namespace.GetAttrs},
		"nodes":       {main: node.Strategy, sub: status(node.StatusStrategy), attrs: node.GetAttrs},
		// GetAttrs of volumes and claims have a "name", too, which no request can select by.
		"persistentvolumes":      {main: persistentvolume.Strategy, sub: status(persistentvolume.StatusStrategy)},
		"persistentvolumeclaims": {main: persistentvolumeclaim.Strategy, sub: status(persistentvolumeclaim.StatusStrategy)},
		"pods": {main: pod.Strategy, sub: subresources{"status": pod.StatusStrategy, "ephemeralcontainers": pod.EphemeralContainersStrategy,
			"resize": pod.ResizeStrategy}, attrs: pod.GetAttrs},
		"podtemplates":           {main: podtemplate.Strategy},
		"replicationcontrollers": {main: replicationcontroller.Strategy, sub: status(replicationcontroller.StatusStrategy), attrs: replicationcontroller.GetAttrs},
		"resourcequotas":         {main: resourcequota.Strategy, sub: status(resourcequota.StatusStrategy)},
		"secrets":                {main: secret.Strategy, attrs: secret.GetAttrs},
		"services":               {main: service.Strategy, sub: status(service.StatusStrategy), attrs: service.GetAttrs},
		"serviceaccounts":        {main: serviceaccount.Strategy},
	}[name]
	return c, ok
}

func upstreamApps(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"controllerrevisions": {main: controllerrevision.Strategy},
		"daemonsets":          {main: daemonset.Strategy, sub: status(daemonset.StatusStrategy)},
		"deployments":         {main: deployment.Strategy, sub: status(deployment.StatusStrategy)},
		"replicasets":         {main: replicaset.Strategy, sub: status(replicaset.StatusStrategy), attrs: replicaset.GetAttrs},
		"statefulsets":        {main: statefulset.Strategy, sub: status(statefulset.StatusStrategy)},
	}[name]
	return c, ok
}

func upstreamNetworking(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"ingresses":       {main: ingress.Strategy, sub: status(ingress.StatusStrategy)},
		"ingressclasses":  {main: ingressclass.Strategy},
		"ipaddresses":     {main: ipaddress.Strategy},
		"networkpolicies": {main: networkpolicy.Strategy},
		"servicecidrs":    {main: servicecidr.Strategy, sub: status(servicecidr.StatusStrategy)},
	}[name]
	return c, ok
}

func upstreamRBAC(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"clusterroles":        {main: clusterrole.Strategy},
		"clusterrolebindings": {main: clusterrolebinding.Strategy},
		"roles":               {main: role.Strategy},
		"rolebindings":        {main: rolebinding.Strategy},
	}[name]
	return c, ok
}

func upstreamStorage(name string) (counterpart, bool) {
	c, ok := map[string]counterpart{
		"csidrivers":              {main: csidriver.Strategy},
		"csinodes":                {main: csinode.Strategy, sub: status(csinode.StatusStrategy)},
		"csistoragecapacities":    {main: csistoragecapacity.Strategy},
		"storageclasses":          {main: storageclass.Strategy},
		"volumeattachments":       {main: volumeattachment.Strategy, sub: status(volumeattachment.StatusStrategy)},
		"volumeattributesclasses": {main: volumeattributesclass.Strategy},
	}[name]
	return c, ok
}

func upstreamDRA(name string) (counterpart, bool) {
	claims := resourceclaim.NewStrategy(labelled{}, authorizerfactory.NewAlwaysAllowAuthorizer())
	c, ok := map[string]counterpart{
		"deviceclasses":          {main: deviceclass.Strategy},
		"devicetaintrules":       {main: devicetaintrule.Strategy, sub: status(devicetaintrule.StatusStrategy)},
		"resourceclaims":         {main: claims, sub: status(resourceclaim.NewStatusStrategy(claims)), attrs: resourceclaim.GetAttrs},
		"resourceclaimtemplates": {main: resourceclaimtemplate.NewStrategy(labelled{}), attrs: resourceclaimtemplate.GetAttrs},
		"resourceslices":         {main: resourceslice.Strategy, attrs: resourceslice.GetAttrs},
	}[name]
	return c, ok
}

func upstreamOther(r schema.GroupResource) (counterpart, bool) {
	pcr := podcertificaterequest.NewStrategy()
	c, ok := map[string]counterpart{
		"clustertrustbundles.certificates.k8s.io": {main: clustertrustbundle.Strategy},
		"podcertificaterequests.certificates.k8s.io": {main: pcr,
			sub: status(podcertificaterequest.NewStatusStrategy(pcr, authorizerfactory.NewAlwaysAllowAuthorizer(), clock.RealClock{}))},
		"cronjobs.batch": {main: cronjob.Strategy, sub: status(cronjob.StatusStrategy)},
		"jobs.batch":     {main: job.Strategy, sub: status(job.StatusStrategy), attrs: job.GetAttrs},
		"horizontalpodautoscalers.autoscaling": {main: horizontalpodautoscaler.Strategy,
			sub: status(horizontalpodautoscaler.StatusStrategy)},
		"certificatesigningrequests.certificates.k8s.io": {main: certificates.Strategy,
			sub: subresources{"status": certificates.StatusStrategy, "approval": certificates.ApprovalStrategy}, attrs: certificates.GetAttrs},
		"leases.coordination.k8s.io":                       {main: lease.Strategy},
		"endpointslices.discovery.k8s.io":                  {main: endpointslice.Strategy},
		"events.events.k8s.io":                             {main: event.Strategy, attrs: event.GetAttrs},
		"runtimeclasses.node.k8s.io":                       {main: runtimeclass.Strategy},
		"poddisruptionbudgets.policy":                      {main: poddisruptionbudget.Strategy, sub: status(poddisruptionbudget.StatusStrategy)},
		"priorityclasses.scheduling.k8s.io":                {main: priorityclass.Strategy},
		"storageversionmigrations.storagemigration.k8s.io": {main: storagemigration.Strategy, sub: status(storagemigration.StatusStrategy)},
		"flowschemas.flowcontrol.apiserver.k8s.io":         {main: flowschema.Strategy, sub: status(flowschema.StatusStrategy)},
		"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": {main: prioritylevelconfiguration.Strategy,
			sub: status(prioritylevelconfiguration.StatusStrategy)},
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
