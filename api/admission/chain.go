package admission

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api/auth"
	"mgr/resource/quota"
)

// DefaultTolerationSeconds is how long pods that do not say it themselves stay on a node that is not ready or not
// reachable. Kubernetes waits 300 s; here a lost node is known within seconds and its pods come back fast.
const DefaultTolerationSeconds = 5

// Config of New.
type Config struct {
	Reader  auth.Reader
	CatchUp auth.CatchUp
	// Authorizer says who may approve and sign certificate requests, and what further tokens agents may ask for.
	Authorizer authorizer.Authorizer
	// TolerationSeconds overrides DefaultTolerationSeconds; negative means 0.
	TolerationSeconds int64
	// ServiceAccountWait is how long a pod waits for the default service account of a namespace that was just made;
	// zero means two seconds.
	ServiceAccountWait time.Duration
	// NodeRegistered is told, at each renewal of a node's lease and each update of its Node object by its agent, which
	// Node object the agent has; an error refuses the write. May be nil.
	NodeRegistered func(ctx context.Context, node string, uid types.UID) error
}

// New returns the chain of all plug-ins. First every mutating part runs in this order, then, on the finished object,
// every validating part.
func New(c Config) admission.Interface {
	if c.TolerationSeconds == 0 {
		c.TolerationSeconds = DefaultTolerationSeconds
	}
	if c.ServiceAccountWait == 0 {
		c.ServiceAccountWait = 2 * time.Second
	}
	on := admission.NewHandler
	write := func() *admission.Handler { return on(admission.Create, admission.Update) }
	any := func() *admission.Handler { return on(admission.Create, admission.Update, admission.Delete) }
	return admission.NewChainHandler(
		// Before all others: nothing is worth looking at in a namespace that does not exist or is going away.
		&namespaceLifecycle{any(), c.Reader, c.CatchUp},
		// Before what judges or counts requests and limits: it fills in those that are missing.
		&limitRanger{write(), c.Reader},
		// Before what looks at a pod's volumes and secrets: it adds some.
		&serviceAccount{on(admission.Create), c.Reader, c.ServiceAccountWait},
		// Validates only: an agent is judged by what the object finally is.
		&nodeRestriction{any(), c.Reader, c.Authorizer, c.NodeRegistered},
		// After nodeRestriction in spirit: an agent may not set taints, the cluster does.
		&notReadyTaint{on(admission.Create)},
		// Validates only, like nodeRestriction: a pod is judged by what it finally is.
		newPodSecurity(c.Reader),
		// Before the quota, whose scopes select by priority class.
		&priority{write(), c.Reader},
		&tolerationSeconds{write(), max(c.TolerationSeconds, 0)},
		// Before the quota, which counts claims by their class.
		&defaultStorageClass{on(admission.Create), c.Reader},
		&storageProtection{on(admission.Create)},
		&claimResize{on(admission.Update), c.Reader},
		// After priority and tolerationSeconds: it joins tolerations and leaves out what is covered. Before the quota, which
		// counts the overhead.
		&runtimeClass{on(admission.Create), c.Reader},
		// Independent of all others: they judge certificate requests.
		&certificateApproval{on(admission.Update), c.Authorizer},
		&certificateSigning{on(admission.Update), c.Authorizer},
		&certificateSubjectRestriction{on(admission.Create)},
		&trustBundleAttest{write(), c.Authorizer},
		&defaultIngressClass{on(admission.Create), c.Reader},
		// Last of those that change something; nothing looks at these labels.
		&podTopology{on(admission.Create), c.Reader},
		&deviceAdmin{write(), c.Reader},
		// Validates only: a resize is judged by what it finally asks for.
		&podResize{on(admission.Update), c.Reader},
		// After all others: nothing is counted that is refused.
		&resourceQuota{write(), c.Reader, quota.New(nil, time.Now)},
	)
}

// The resources that plug-ins watch for.
var (
	namespaces      = schema.GroupResource{Resource: "namespaces"}
	nodes           = schema.GroupResource{Resource: "nodes"}
	pods            = schema.GroupResource{Resource: "pods"}
	serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}
	leases          = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	limitRanges     = schema.GroupResource{Resource: "limitranges"}
	resourceQuotas  = schema.GroupResource{Resource: "resourcequotas"}
	volumes         = schema.GroupResource{Resource: "persistentvolumes"}
	claims          = schema.GroupResource{Resource: "persistentvolumeclaims"}
	priorityClasses = schema.GroupResource{Group: "scheduling.k8s.io", Resource: "priorityclasses"}
	runtimeClasses  = schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}
	storageClasses  = schema.GroupResource{Group: "storage.k8s.io", Resource: "storageclasses"}
	ingresses       = schema.GroupResource{Group: "networking.k8s.io", Resource: "ingresses"}
	ingressClasses  = schema.GroupResource{Group: "networking.k8s.io", Resource: "ingressclasses"}
	deviceClaims    = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}
	deviceTemplates = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaimtemplates"}

	attributesClasses = schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattributesclasses"}
)

// is says whether a request is for a resource and subresource ("" = the object itself).
func is(a admission.Attributes, gr schema.GroupResource, subresource string) bool {
	return a.GetResource().GroupResource() == gr && a.GetSubresource() == subresource
}

// podOf returns the pod of a request; the error is a 400.
func podOf(a admission.Attributes) (*corev1.Pod, error) {
	return objectOf[*corev1.Pod](a.GetObject(), a)
}

func objectOf[T runtime.Object](obj runtime.Object, a admission.Attributes) (T, error) {
	t, ok := obj.(T)
	if !ok {
		return t, apierrors.NewBadRequest(fmt.Sprintf("resource %s holds a %T", a.GetResource().GroupResource(), obj))
	}
	return t, nil
}
