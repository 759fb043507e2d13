package boot

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"mgr/api"
	"mgr/api/auth/defaults"
	"mgr/controller"
	"mgr/failpoint"
	"mgr/pki"
	"mgr/resource"
	"mgr/scheduler"
)

// duties are what a master does while it leads: controllers, scheduler, expiry. Their informers are fed from the state in this
// process. A follower does not run them while a new leader could fill them within the time of an election: decoding every object on
// every peer was a fifth of the cost of a write, and more memory than the objects themselves.
type duties struct {
	master    *Plane
	informers informers.SharedInformerFactory
	byStorage map[string]cache.SharedIndexInformer // by the name under which the state keeps the objects
	nodes     cache.SharedIndexInformer            // runs on every master
	awake     chan struct{}                        // closed when the informers are needed
	wake      func()                               // closes awake
	scheduler atomic.Pointer[scheduler.Scheduler]
}

// asleepUpTo is the number of objects up to which a follower's informers sleep: decoding takes about 30 µs for each.
const asleepUpTo = 10_000

// controllerName is who controllers and scheduler are to the API.
const controllerName = "system:mgr:controller"

// prepare registers an informer for every kind but events, straight from the state, before anybody asks the factory for one.
func (d *duties) prepare() error {
	d.informers = informers.NewSharedInformerFactory(d.master.admin, 0)
	d.byStorage = map[string]cache.SharedIndexInformer{}
	for _, kind := range resource.All() {
		if kind.TTL != 0 || kind.Stored != nil {
			continue
		}
		lw := d.master.api.ListWatch(kind.GroupVersionResource)
		d.byStorage[kind.Storage()] = d.informers.InformerFor(kind.New(), func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(lw, kind.New(), 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		})
	}
	d.awake = make(chan struct{})
	d.wake = sync.OnceFunc(func() { close(d.awake) })
	// A node that is deleted loses its tunnels on every master at once.
	d.nodes = cache.NewSharedIndexInformer(d.master.api.ListWatch(corev1.SchemeGroupVersion.WithResource("nodes")), &corev1.Node{}, 0, nil)
	_, err := d.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		DeleteFunc: func(o any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
				d.master.tunnels.Disconnect(key)
			}
		},
	})
	if err != nil {
		return err
	}
	return controller.Prepare(controller.Config{Informers: d.informers, Resources: resource.All()})
}

// run runs the informers, from when they are needed, until ctx is done.
func (d *duties) run(ctx context.Context) error {
	var nodes sync.WaitGroup
	nodes.Go(func() { d.nodes.RunWithContext(ctx) })
	defer nodes.Wait()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for asleep := true; asleep; {
		select {
		case <-ctx.Done():
			return nil
		case <-d.awake:
			asleep = false
		case <-tick.C:
			asleep = d.objects() <= asleepUpTo
		}
	}
	d.informers.StartWithContext(ctx)
	<-ctx.Done()
	d.informers.Shutdown()
	return nil
}

// objects is how many the informers hold, or would.
func (d *duties) objects() int {
	n, state := 0, d.master.node.FSM().State()
	for name := range d.byStorage {
		n += state.Resource(name).Len("")
	}
	return n
}

// lead runs for as long as this master leads in term.
func (d *duties) lead(ctx context.Context, term uint64) {
	log := d.master.log.With("term", term)
	began := time.Now()
	d.wake()
	started := make(chan struct{})
	atWork := sync.OnceFunc(func() {
		close(started)
		log.Info("controllers and scheduler are at work", "after", time.Since(began).Round(time.Millisecond))
	})
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { handOnUnstarted(ctx, started, d.master.node.TransferLeadership, log) })
	for ctx.Err() == nil {
		whole, stop := d.master.untilReplaced(ctx)
		err := d.work(whole, term, atWork)
		replaced := context.Cause(whole) == errReplaced
		stop()
		if replaced {
			log.Warn("the state was replaced; the leader's work starts anew")
		} else if ctx.Err() == nil {
			log.Error("the leader's work ended early; it starts again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	log.Info("no longer leading", "after", time.Since(began).Round(time.Millisecond))
}

// startPatience is how long a leader may take until its controllers and scheduler are at work: much longer than it takes to read a
// million objects.
const startPatience = time.Minute

// handOnUnstarted hands leadership on when the duties do not start: to lead without doing anything is worse than an election, and what
// keeps this master from it may be its own. It is tried again and again, as no other may be able to take over.
func handOnUnstarted(ctx context.Context, started <-chan struct{}, handOn func(context.Context) error, log *slog.Logger) {
	for {
		select {
		case <-started:
			return
		case <-ctx.Done():
			return
		case <-time.After(startPatience):
		}
		log.Error("controllers and scheduler do not start: leadership is handed on", "after", startPatience)
		if err := handOn(ctx); err != nil && ctx.Err() == nil {
			log.Error("nobody takes leadership over; it is tried again", "err", err)
		}
	}
}

// work starts everything that leads, calls atWork, and waits for all of it.
func (d *duties) work(ctx context.Context, term uint64, atWork func()) error {
	m := d.master
	cfg := m.api.Loopback(ctx, controllerName, []string{pki.OrgAdmins}, term)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(cfg)
	if err != nil {
		return err
	}
	failpoint.Hit("duties.start")
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	failpoint.Hit("duties.caughtup")
	if err := ensureBasics(ctx, client); err != nil {
		return err
	}
	recorder, stop := controller.NewRecorder(ctx, client, "mgr")
	defer stop()
	schedules, stopSchedules := controller.NewRecorder(ctx, client, "default-scheduler")
	defer stopSchedules()
	s := scheduler.New(scheduler.Config{
		Informers: d.informers, Client: client, Recorder: schedules, Log: m.log,
		Bind: func(ctx context.Context, b []scheduler.Binding) []error { return d.bind(ctx, term, b) },
	})
	d.scheduler.Store(s)
	defer d.scheduler.Store(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return controller.Run(ctx, controller.Config{
			Client: client, Metadata: meta, Informers: d.informers, Resources: resource.All(),
			Snapshot:   func() controller.Snapshot { return m.api.Snapshot() },
			Heartbeats: heartbeats{m.api}, Recorder: recorder, Masters: m.endpoints,
			ServiceIP: apiServiceIP(m.cfg.Services), ServiceNetwork: m.cfg.Services,
			RootCA: m.cfg.Authority.PEM(), FrontProxyCA: m.cfg.Authority.FrontProxy().PEM(),
			Certificates: controller.Certificates{Issue: m.cfg.Authority.IssueRequest, BindNode: m.joins.BindNode},
			AccountToken: m.tokens.Legacy, NodeGrace: m.cfg.NodeGrace,
			Synced: func(ctx context.Context) error {
				err := d.catchUp(ctx)
				if err == nil {
					atWork()
				}
				return err
			},
			Log: m.log,
		})
	})
	g.Go(func() error { return s.Run(ctx) })
	g.Go(func() error { return d.ensurePolicy(ctx, client) })
	g.Go(func() error { m.api.SweepExpired(ctx, term); return nil })
	g.Go(func() error { d.keepLease(ctx, client, term); return nil })
	return g.Wait()
}

// keepLease shows that this master leads.
func (d *duties) keepLease(ctx context.Context, client kubernetes.Interface, term uint64) {
	tick := time.NewTicker(controller.LeaderLeaseEvery)
	defer tick.Stop()
	controller.LeaderLease{Client: client, Holder: d.master.cfg.ID, Term: term, Log: d.master.log,
		Revision: func() uint64 { return d.master.node.FSM().State().Revision() }}.Keep(ctx, tick.C)
}

// ensurePolicy keeps the default roles and bindings complete. Nobody waits for it: until they are written, the authorizer
// judges by them all the same.
func (d *duties) ensurePolicy(ctx context.Context, client kubernetes.Interface) error {
	for ctx.Err() == nil {
		err := defaults.Ensure(ctx, client)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		d.master.log.Warn("the default roles are not complete; it is tried again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// bind hands the scheduler's decisions to the API, many in one log entry.
func (d *duties) bind(ctx context.Context, term uint64, bindings []scheduler.Binding) []error {
	out := make([]api.Binding, len(bindings))
	for i, b := range bindings {
		out[i] = api.Binding{Namespace: b.Namespace, Name: b.Name, UID: string(b.UID), Node: b.Node}
	}
	failpoint.Hit("pods.bind.before")
	defer failpoint.Hit("pods.bind.after")
	return d.master.api.Bind(ctx, term, out)
}

// catchUp waits until the informers show everything that was committed before this leadership: a controller that did not see
// what its predecessor made would make it again. Deletions may still be on their way; they only delay.
func (d *duties) catchUp(ctx context.Context) error {
	var filled []cache.DoneChecker
	for _, informer := range d.byStorage {
		filled = append(filled, informer.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", filled...) {
		return fmt.Errorf("the informers did not fill: %w", context.Cause(ctx))
	}
	state := d.master.node.FSM().State()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for name, informer := range d.byStorage {
		newest := uint64(0)
		for o := range state.Resource(name).List("", "") {
			newest = max(newest, o.Revision)
		}
		for {
			seen, err := strconv.ParseUint(informer.LastSyncResourceVersion(), 10, 64)
			if err == nil && seen >= newest {
				break
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
		}
	}
	return nil
}

// Explain implements api.Explainer; api sends the question to the leader.
func (d *duties) Explain(ctx context.Context, namespace, name string) (any, error) {
	s := d.scheduler.Load()
	if s == nil {
		return nil, apierrors.NewServiceUnavailable("the scheduler is not at work on this master; ask again in a second")
	}
	return s.Explain(ctx, namespace, name)
}

type heartbeats struct{ api *api.Server }

func (h heartbeats) Last(node string) (time.Time, bool) { return h.api.Heartbeat(node) }

// basicNamespaces exist in every cluster.
var basicNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

// basicsExist is a check of /readyz: a cluster without its namespaces is not ready for anybody.
func basicsExist(reader *api.Reader) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, name := range basicNamespaces {
			if _, err := reader.Get(ctx, corev1.Resource("namespaces"), "", name); err != nil {
				return err
			}
		}
		return nil
	}
}

// ensureBasics makes what every cluster has; on all but the first leadership it only looks.
func ensureBasics(ctx context.Context, client kubernetes.Interface) error {
	for _, name := range basicNamespaces {
		_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
			_, err = client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	return nil
}
