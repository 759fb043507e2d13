// Package devices hands out devices of the node that plug-ins offer (Kubernetes' device plug-in interface v1beta1): GPUs, network
// functions and whatever else a pod asks for as an extended resource.
//
// A plug-in registers on the socket kubelet.sock in the manager's directory and from then on streams its devices and their health.
// When a pod is taken in, Allocate decides which devices its containers get; the decision is in a file before it is acted upon, so
// a restarted agent keeps it. Start says, for one container, what the plug-ins want to see in it.
//
// Goroutines: the registration server and, for each plug-in, one that reads its stream. Run owns them and waits for them.
package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// graceWithout is how long a resource stays, with nothing of it allocatable, after its plug-in has gone: it may be restarting.
const graceWithout = 5 * time.Minute

// Config of a manager. Dir is required and made if it is not there.
type Config struct {
	Dir string
	Log *slog.Logger
	// Active says that a pod still needs its devices; those of others are free again. Nil: all do.
	Active func(podUID string) bool
	// Changed is told when what the node offers changed, Health when the health of devices of these pods did.
	Changed func()
	Health  func(podUIDs []string)
}

// Manager knows the devices of this node and whose they are. Its methods are safe for concurrent use.
type Manager struct {
	cfg Config
	ctx context.Context // of Run
	wg  sync.WaitGroup  // readers of plug-ins' streams

	mu        sync.Mutex
	resources map[string]*offer
	grants    map[owner]*grant
}

// offer is one resource: the plug-in that offers it now, and the devices that it last spoke of.
type offer struct {
	plugin  *endpoint // nil: none, since gone
	gone    time.Time
	devices map[string]*plugin.Device
}

// owner of a grant.
type owner struct{ Pod, Container, Resource string }

// grant is what a container has of a resource.
type grant struct {
	Devices []string
	Answer  *plugin.ContainerAllocateResponse
}

// New reads what an earlier manager granted.
func New(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Active == nil {
		cfg.Active = func(string) bool { return true }
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Health == nil {
		cfg.Health = func([]string) {}
	}
	m := &Manager{cfg: cfg, resources: map[string]*offer{}, grants: map[owner]*grant{}}
	return m, m.load()
}

func (o *offer) healthy() []string {
	var ids []string
	if o == nil || o.plugin == nil {
		return nil
	}
	for id, d := range o.devices {
		if d.Health == plugin.Healthy {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Resources is what the node has of each resource that a plug-in offers or has offered, and what of it is healthy. One whose
// plug-in has been gone for too long has a capacity of zero.
func (m *Manager) Resources() (capacity, allocatable v1.ResourceList) {
	capacity, allocatable = v1.ResourceList{}, v1.ResourceList{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, o := range m.resources {
		all := len(o.devices)
		if o.plugin == nil && time.Since(o.gone) > graceWithout {
			all = 0
		}
		capacity[v1.ResourceName(name)] = *resource.NewQuantity(int64(all), resource.DecimalSI)
		allocatable[v1.ResourceName(name)] = *resource.NewQuantity(int64(len(o.healthy())), resource.DecimalSI)
	}
	return capacity, allocatable
}

// Status is the health of what a container has, for its status in the API.
func (m *Manager) Status(podUID, container string) []v1.ResourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []v1.ResourceStatus
	for o, g := range m.grants {
		if o.Pod != podUID || o.Container != container {
			continue
		}
		s := v1.ResourceStatus{Name: v1.ResourceName(o.Resource)}
		for _, id := range g.Devices {
			health := v1.ResourceHealthStatusHealthy
			if of := m.resources[o.Resource]; of != nil && of.devices[id] != nil && of.devices[id].Health != plugin.Healthy {
				health = v1.ResourceHealthStatusUnhealthy
			}
			s.Resources = append(s.Resources, v1.ResourceHealth{ResourceID: v1.ResourceID(id), Health: health})
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b v1.ResourceStatus) int { return cmpString(string(a.Name), string(b.Name)) })
	return out
}

// Release frees what a pod has.
func (m *Manager) Release(podUID string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.grants)
	maps.DeleteFunc(m.grants, func(o owner, _ *grant) bool { return o.Pod == podUID })
	if len(m.grants) == before {
		return nil
	}
	return m.save()
}

// Allocate gives each of the pod's containers the devices that it asks for and has not been given before. Init containers
// run one after the other and before the rest, so what they have is given again; a sidecar keeps its own.
func (m *Manager) Allocate(ctx context.Context, pod *v1.Pod) error {
	again := map[string][]string{} // by resource
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if err := m.allocate(ctx, string(pod.UID), c, again); err != nil {
			return err
		}
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		for name, ids := range m.granted(string(pod.UID), c.Name) {
			if sidecar {
				again[name] = slices.DeleteFunc(again[name], func(id string) bool { return slices.Contains(ids, id) })
				continue
			}
			for _, id := range ids {
				if !slices.Contains(again[name], id) {
					again[name] = append(again[name], id)
				}
			}
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if err := m.allocate(ctx, string(pod.UID), c, again); err != nil {
			return err
		}
		for name, ids := range m.granted(string(pod.UID), c.Name) {
			again[name] = slices.DeleteFunc(again[name], func(id string) bool { return slices.Contains(ids, id) })
		}
	}
	return nil
}

// granted lists a container's devices by resource.
func (m *Manager) granted(podUID, container string) map[string][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]string{}
	for o, g := range m.grants {
		if o.Pod == podUID && o.Container == container {
			out[o.Resource] = g.Devices
		}
	}
	return out
}

func (m *Manager) allocate(ctx context.Context, podUID string, c *v1.Container, again map[string][]string) error {
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		quantity := c.Resources.Limits[name]
		o := owner{podUID, c.Name, string(name)}
		m.mu.Lock()
		_, known := m.resources[o.Resource]
		have := m.grants[o]
		m.mu.Unlock()
		switch wanted := int(quantity.Value()); {
		case !known && have == nil || wanted == 0: // no plug-in's resource
		case have != nil && len(have.Devices) != wanted:
			return fmt.Errorf("container %s had %d of %s and now asks for %d", c.Name, len(have.Devices), name, wanted)
		case have == nil:
			if err := m.grant(ctx, o, wanted, again[o.Resource]); err != nil {
				return err
			}
		}
	}
	return nil
}

// grant chooses devices, asks the plug-in for them and writes the answer down. They count as taken while it is asked.
func (m *Manager) grant(ctx context.Context, o owner, n int, again []string) error {
	p, ids, err := m.reserve(ctx, o, n, again)
	if err != nil {
		return err
	}
	answer, err := p.allocate(ctx, ids)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.grants[o] = &grant{Devices: ids, Answer: answer}
		err = m.save()
	}
	if err != nil {
		delete(m.grants, o)
	}
	return err
}

func (m *Manager) reserve(ctx context.Context, o owner, n int, again []string) (*endpoint, []string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.grants, func(o owner, _ *grant) bool { return !m.cfg.Active(o.Pod) })
	var preferred []string
	for asked := false; ; asked = true {
		free, must, err := m.free(o, n, again)
		if err != nil {
			return nil, nil, err
		}
		p := m.resources[o.Resource].plugin
		if asked || !p.options.GetPreferredAllocationAvailable || n == len(must) || n == len(must)+len(free) {
			ids := slices.Clone(must)
			for _, id := range slices.Concat(preferred, free) {
				if len(ids) < n && slices.Contains(free, id) && !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
			slices.Sort(ids)
			m.grants[o] = &grant{Devices: ids}
			return p, ids, nil
		}
		m.mu.Unlock() // others may take devices meanwhile, so the choice is made anew
		preferred, err = p.prefer(ctx, slices.Concat(must, free), must, n)
		m.mu.Lock()
		if err != nil {
			return nil, nil, err
		}
	}
}

// free lists the healthy devices of a resource that nobody has, and those of again that come first.
func (m *Manager) free(o owner, n int, again []string) (free, must []string, err error) {
	offer := m.resources[o.Resource]
	if offer == nil {
		return nil, nil, fmt.Errorf("cannot allocate unregistered device %s", o.Resource)
	}
	healthy := offer.healthy()
	if len(healthy) == 0 {
		return nil, nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", o.Resource)
	}
	taken := map[string]bool{}
	for other, g := range m.grants {
		for _, id := range g.Devices {
			taken[id] = taken[id] || other.Resource == o.Resource
		}
	}
	for _, id := range again {
		if len(must) < n && slices.Contains(healthy, id) {
			must = append(must, id)
		}
	}
	for _, id := range healthy {
		if !taken[id] {
			free = append(free, id)
		}
	}
	if len(must)+len(free) < n {
		return nil, nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", o.Resource, n, len(must)+len(free))
	}
	return free, must, nil
}

// Start says what a container must be given for its devices, after the plug-ins that want to know have been told that it starts.
func (m *Manager) Start(ctx context.Context, podUID string, c *v1.Container) (*plugin.ContainerAllocateResponse, error) {
	out := &plugin.ContainerAllocateResponse{Envs: map[string]string{}, Annotations: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		o := owner{podUID, c.Name, string(name)}
		m.mu.Lock()
		g, of := m.grants[o], m.resources[o.Resource]
		var p *endpoint
		if of != nil {
			p = of.plugin
		}
		m.mu.Unlock()
		switch {
		case g == nil:
			continue
		case g.Answer == nil:
			return nil, fmt.Errorf("the devices of %s have not been allocated yet", name)
		case p == nil:
			return nil, fmt.Errorf("the plug-in of %s is gone", name)
		}
		if p.options.PreStartRequired {
			if err := p.preStart(ctx, g.Devices); err != nil {
				return nil, err
			}
		}
		if len(g.Answer.CdiDevices) > 0 {
			return nil, errors.New("the plug-in of " + string(name) + " answers with CDI devices, which this agent does not know")
		}
		maps.Copy(out.Envs, g.Answer.Envs)
		maps.Copy(out.Annotations, g.Answer.Annotations)
		out.Mounts, out.Devices = append(out.Mounts, g.Answer.Mounts...), append(out.Devices, g.Answer.Devices...)
	}
	return out, nil
}
