package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"mgr/resource"
)

// Config is what the controllers need of their surroundings.
type Config struct {
	// Client and Metadata write as the controllers' identity, fenced by the term of this leadership. Neither may limit its rate.
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Informers are shared, running and warm; Prepare was called with them before they were started.
	Informers informers.SharedInformerFactory
	// Informer returns the running informer of a resource, typed or metadata only, for the garbage collector; nil takes it
	// from Informers.
	Informer func(schema.GroupVersionResource) (cache.SharedIndexInformer, error)
	// Snapshot reads this leader's state at one moment.
	Snapshot func() Snapshot
	// Resources are the served kinds: what a namespace is emptied of, and what the garbage collector follows.
	Resources []*resource.Kind
	// Heartbeats says when a node was last heard of by this leader.
	Heartbeats Heartbeats
	Recorder   record.EventRecorder
	// Masters are the addresses at which the API is served: the endpoints of the service "kubernetes". It is asked
	// every few seconds.
	Masters func() []netip.AddrPort
	// ServiceIP is the cluster IP of the service "kubernetes".
	ServiceIP netip.Addr
	// ServiceNetwork is where cluster IPs are from.
	ServiceNetwork netip.Prefix
	// Certificates sign certificate requests.
	Certificates Certificates
	// AccountToken makes the token that a Secret of type kubernetes.io/service-account-token holds.
	AccountToken func(*corev1.ServiceAccount, *corev1.Secret) (string, error)
	// RootCA is the PEM bundle by which pods trust the API.
	RootCA []byte
	// FrontProxyCA is the PEM of the CA by which front proxies are known.
	FrontProxyCA []byte
	// Synced returns once the informers show everything that was committed before this leadership; nil: do not wait.
	Synced func(context.Context) error

	// NodeGrace is how long a node may be silent before it counts as lost; 0: DefaultNodeGrace.
	NodeGrace time.Duration
	// TerminatedPods is how many ended pods are kept before the oldest are removed; 0: DefaultTerminatedPods.
	TerminatedPods int
	// Quarantine is how long a node must be missing before its pods are removed; 0: DefaultQuarantine.
	Quarantine time.Duration

	Metrics Metrics      // may be nil
	Log     *slog.Logger // nil: slog.Default()
}

// Snapshot is one state of the cluster: all that it returns was true at once. What it returns is shared. Get returns an error
// for which apierrors.IsNotFound holds when there is no such object; List lists a namespace, or all of them for "".
type Snapshot interface {
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (runtime.Object, error)
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]runtime.Object, error)
}

// Heartbeats are the leases of the nodes, kept in the leader's memory.
type Heartbeats interface {
	// Last is when the node was last heard of; false: not since this leadership began.
	Last(node string) (time.Time, bool)
}

// Defaults of Config.
const (
	DefaultNodeGrace      = 4 * time.Second
	DefaultTerminatedPods = 12500
	DefaultQuarantine     = 40 * time.Second
)

// Prepare registers the informers that the controllers listen to, with the indexes they read. It is called once, on every
// master, before the informers are started; Run adds no informer. It reads only Informers, Informer and Resources.
func Prepare(c Config) error {
	c = c.withDefaults()
	f := c.Informers
	if err := f.Core().V1().Pods().Informer().AddIndexers(cache.Indexers{byController: indexByController, byNode: indexByNode}); err != nil {
		return fmt.Errorf("add the indexes of pods: %w", err)
	}
	if err := f.Apps().V1().ReplicaSets().Informer().AddIndexers(cache.Indexers{byController: indexByController}); err != nil {
		return fmt.Errorf("add the index of replica sets: %w", err)
	}
	if err := f.Core().V1().Secrets().Informer().AddIndexers(cache.Indexers{byAccount: indexByAccount}); err != nil {
		return fmt.Errorf("add the index of secrets: %w", err)
	}
	f.Core().V1().Namespaces().Informer()
	f.Core().V1().Nodes().Informer()
	f.Core().V1().ServiceAccounts().Informer()
	f.Core().V1().ConfigMaps().Informer()
	f.Core().V1().ReplicationControllers().Informer()
	f.Core().V1().Services().Informer()
	f.Core().V1().Endpoints().Informer()
	f.Discovery().V1().EndpointSlices().Informer()
	f.Apps().V1().Deployments().Informer()
	f.Certificates().V1().CertificateSigningRequests().Informer()
	f.Core().V1().ResourceQuotas().Informer()
	f.Core().V1().PersistentVolumes().Informer()
	f.Core().V1().PersistentVolumeClaims().Informer()
	f.Storage().V1().StorageClasses().Informer()
	f.Storage().V1().VolumeAttributesClasses().Informer()
	f.Scheduling().V1().PriorityClasses().Informer()
	f.Networking().V1().ServiceCIDRs().Informer()
	f.Flowcontrol().V1().PriorityLevelConfigurations().Informer()
	f.Flowcontrol().V1().FlowSchemas().Informer()
	f.Storagemigration().V1().StorageVersionMigrations().Informer()
	for _, k := range collected(c.Resources) {
		in, err := c.Informer(k.GroupVersionResource)
		if err != nil {
			return fmt.Errorf("informer of %s: %w", k.GroupResource(), err)
		}
		if err := in.AddIndexers(cache.Indexers{byOwner: indexByOwner}); err != nil {
			return fmt.Errorf("add the index of owners to %s: %w", k.GroupResource(), err)
		}
	}
	return nil
}

// Run runs all controllers until ctx is done and returns when all of their goroutines have ended and their handlers are
// removed. It may be called again for the next leadership, but not while it runs. An error says that it could not start.
func Run(ctx context.Context, c Config) error {
	c = c.withDefaults()
	all, err := controllers(c)
	if err != nil {
		return err
	}
	return runLoops(ctx, all, c.Synced, c.Metrics, c.Log)
}

func controllers(c Config) ([]Controller, error) {
	f := c.Informers
	pods := f.Core().V1().Pods().Informer()
	gc, err := newGarbageCollector(c.Resources, c.Informer, c.Metadata, c.Snapshot, c.Recorder)
	if err != nil {
		return nil, err
	}
	quotas, err := newQuotaRecount(c)
	if err != nil {
		return nil, err
	}
	return []Controller{
		newNamespaces(f, c.Client, c.Metadata, c.Resources),
		newServiceAccounts(f, c.Client),
		newRootCA(f, c.Client, c.RootCA),
		newRoleAggregation(f, c.Client),
		newCSRs(f, c.Client, c.Certificates),
		newAccountTokens(f, c.Client, c.AccountToken, c.RootCA),
		newBootstrapTokens(f, c.Client),
		newAuthenticationInfo(f, c.Client, authenticationData(c.RootCA, c.FrontProxyCA)),
		newDeployments(f, c.Client, c.Recorder),
		newReplicas(replicaSetKind(f, c.Client), pods, c.Client.CoreV1(), c.Recorder),
		newReplicas(replicationControllerKind(f, c.Client), pods, c.Client.CoreV1(), c.Recorder),
		newEndpoints(f, c.Client),
		newEndpointSlices(f, c.Client, c.Recorder),
		newKubernetesService(f, c.Client, c.ServiceIP, c.Masters),
		newServiceCIDRs(f, c.Client, c.ServiceNetwork),
		newFlowControl(f, c.Client),
		newStorageMigrations(f, c.Client, c.Resources),
		newNodeLifecycle(f, c.Client, c.Heartbeats, c.NodeGrace, c.Recorder),
		newPodGC(f, c.Client, c.TerminatedPods, c.Quarantine),
		gc,
		quotas,
		newStorageProtection(f, c.Metadata, c.Snapshot),
		newVolumeBinder(f, c.Client, c.Snapshot, c.Recorder),
		newPriorityClasses(f, c.Client),
	}, nil
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.NodeGrace == 0 {
		c.NodeGrace = DefaultNodeGrace
	}
	if c.TerminatedPods == 0 {
		c.TerminatedPods = DefaultTerminatedPods
	}
	if c.Quarantine == 0 {
		c.Quarantine = DefaultQuarantine
	}
	if c.Informer == nil {
		c.Informer = func(gvr schema.GroupVersionResource) (cache.SharedIndexInformer, error) {
			g, err := c.Informers.ForResource(gvr)
			if err != nil {
				return nil, err
			}
			return g.Informer(), nil
		}
	}
	return c
}
