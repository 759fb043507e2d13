package devices

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/validation"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	socketName = "kubelet.sock"
	// callLimit is how long a plug-in may take to answer: one that hangs must not keep pods from failing.
	callLimit = 30 * time.Second
	// dialLimit is how long it may take to answer for the first time.
	dialLimit = 10 * time.Second
)

// endpoint is a registered plug-in.
type endpoint struct {
	name    string // of the resource
	conn    *grpc.ClientConn
	client  plugin.DevicePluginClient
	options *plugin.DevicePluginOptions
}

// Run serves plug-ins until ctx is done.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer m.wg.Wait()
	defer cancel()
	if err := m.sweep(); err != nil {
		return err
	}
	listener, err := net.Listen("unix", filepath.Join(m.cfg.Dir, socketName))
	if err != nil {
		return fmt.Errorf("listen for device plug-ins: %w", err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	plugin.RegisterRegistrationServer(server, &registrar{ctx: ctx, m: m})
	m.wg.Go(func() {
		<-ctx.Done()
		server.Stop()
	})
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve device plug-ins: %w", err)
	}
	return nil
}

// sweep removes the sockets of an earlier life: plug-ins see theirs go, and register again.
func (m *Manager) sweep() error {
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("look for old sockets of device plug-ins: %w", err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSocket == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(m.cfg.Dir, e.Name())); err != nil {
			return fmt.Errorf("remove an old socket of a device plug-in: %w", err)
		}
	}
	return nil
}

// registrar is the service that plug-ins call.
type registrar struct {
	plugin.UnimplementedRegistrationServer
	ctx context.Context
	m   *Manager
}

// Register takes a plug-in in. It answers before the plug-in is connected to: some serve only after that.
func (r *registrar) Register(_ context.Context, q *plugin.RegisterRequest) (*plugin.Empty, error) {
	if err := check(q); err != nil {
		r.m.cfg.Log.Warn("a device plug-in was refused", "resource", q.ResourceName, "err", err)
		return nil, err
	}
	r.m.wg.Go(func() {
		if err := r.m.serve(r.ctx, q); err != nil && r.ctx.Err() == nil {
			r.m.cfg.Log.Warn("a device plug-in has ended", "resource", q.ResourceName, "err", err)
		}
	})
	return &plugin.Empty{}, nil
}

func check(q *plugin.RegisterRequest) error {
	domain, _, qualified := strings.Cut(q.ResourceName, "/")
	switch {
	case !slices.Contains(plugin.SupportedVersions[:], q.Version):
		return fmt.Errorf("version %q is not supported: use one of %v", q.Version, plugin.SupportedVersions)
	case !qualified || len(validation.IsQualifiedName(q.ResourceName)) > 0 || strings.HasSuffix(domain, "kubernetes.io") ||
		strings.HasPrefix(q.ResourceName, "requests."):
		return fmt.Errorf("%q is no name of an extended resource: use DOMAIN/NAME", q.ResourceName)
	case q.Endpoint == "" || q.Endpoint != filepath.Base(q.Endpoint) || q.Endpoint == socketName || q.Endpoint[0] == '.':
		return fmt.Errorf("%q is no name of a socket beside %s", q.Endpoint, socketName)
	}
	return nil
}

// serve connects to a plug-in and follows its devices until it ends.
func (m *Manager) serve(ctx context.Context, q *plugin.RegisterRequest) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(m.cfg.Dir, q.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	p := &endpoint{name: q.ResourceName, conn: conn, client: plugin.NewDevicePluginClient(conn), options: &plugin.DevicePluginOptions{}}
	dial, cancel := context.WithTimeout(ctx, dialLimit)
	options, err := p.client.GetDevicePluginOptions(dial, &plugin.Empty{}, grpc.WaitForReady(true))
	cancel()
	if err != nil {
		return fmt.Errorf("ask it for its options: %w", err)
	}
	if options != nil {
		p.options = options
	}
	stream, err := p.client.ListAndWatch(ctx, &plugin.Empty{})
	if err != nil {
		return fmt.Errorf("list its devices: %w", err)
	}
	for first := true; ; first = false {
		list, err := stream.Recv()
		if err != nil {
			m.leave(p)
			return err
		}
		if err := m.update(p, list.Devices, first); err != nil {
			return errors.Join(err, stream.CloseSend())
		}
		m.cfg.Log.Info("a device plug-in told of its devices", "resource", p.name, "devices", len(list.Devices))
	}
}

// update takes over what a plug-in says. The one that registered last has the word; it begins with its first list.
func (m *Manager) update(p *endpoint, list []*plugin.Device, first bool) error {
	now := map[string]*plugin.Device{}
	for _, d := range list {
		now[d.ID] = d
	}
	m.mu.Lock()
	o := m.resources[p.name]
	if o == nil {
		o = &offer{}
		m.resources[p.name] = o
	}
	if !first && o.plugin != p {
		m.mu.Unlock()
		return nil
	}
	before := o.devices
	o.plugin, o.devices = p, now
	var pods []string
	for owner, g := range m.grants {
		if owner.Resource == p.name && !slices.Contains(pods, owner.Pod) &&
			slices.ContainsFunc(g.Devices, func(id string) bool { return healthOf(before, id) != healthOf(now, id) }) {
			pods = append(pods, owner.Pod)
		}
	}
	err := m.save()
	m.mu.Unlock()
	m.cfg.Changed()
	if len(pods) > 0 {
		m.cfg.Health(pods)
	}
	return err
}

func healthOf(devices map[string]*plugin.Device, id string) string {
	if d := devices[id]; d != nil {
		return d.Health
	}
	return ""
}

// leave notes that a plug-in has ended, unless another has taken its place.
func (m *Manager) leave(p *endpoint) {
	m.mu.Lock()
	o := m.resources[p.name]
	mine := o != nil && o.plugin == p
	if mine {
		o.plugin, o.gone = nil, time.Now()
	}
	m.mu.Unlock()
	if mine {
		m.cfg.Changed()
	}
}

func (p *endpoint) allocate(ctx context.Context, ids []string) (*plugin.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := p.client.Allocate(ctx, &plugin.AllocateRequest{ContainerRequests: []*plugin.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, err
	}
	if len(answer.ContainerResponses) != 1 {
		return nil, fmt.Errorf("the plug-in of %s answers for %d containers, not one", p.name, len(answer.ContainerResponses))
	}
	return answer.ContainerResponses[0], nil
}

func (p *endpoint) prefer(ctx context.Context, available, must []string, n int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := p.client.GetPreferredAllocation(ctx, &plugin.PreferredAllocationRequest{ContainerRequests: []*plugin.ContainerPreferredAllocationRequest{{
		AvailableDeviceIDs: available, MustIncludeDeviceIDs: must, AllocationSize: int32(n),
	}}})
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	if len(answer.ContainerResponses) == 0 {
		return nil, nil
	}
	return answer.ContainerResponses[0].DeviceIDs, nil
}

func (p *endpoint) preStart(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, plugin.KubeletPreStartContainerRPCTimeoutInSecs*time.Second)
	defer cancel()
	if _, err := p.client.PreStartContainer(ctx, &plugin.PreStartContainerRequest{DevicesIds: ids}); err != nil {
		return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
	}
	return nil
}
