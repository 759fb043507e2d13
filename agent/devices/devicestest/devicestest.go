// Package devicestest is a device plug-in for tests: it registers and serves as real ones do.
package devicestest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Resource is what the plug-in offers.
const Resource = "example.com/thing"

// Plugin offers devices over its own socket. Options, Prefer and Refuse are its answers; they are set before it is asked.
type Plugin struct {
	plugin.UnimplementedDevicePluginServer
	t       testing.TB
	dir     string
	Options *plugin.DevicePluginOptions
	Prefer  []string
	Refuse  error

	mu      sync.Mutex
	list    []*plugin.Device
	changed chan struct{}
	calls   []string
	Server  *grpc.Server
}

// New makes a plug-in of healthy devices for a manager in dir.
func New(t testing.TB, dir string, ids ...string) *Plugin {
	p := &Plugin{t: t, dir: dir, Options: &plugin.DevicePluginOptions{}, changed: make(chan struct{}, 10)}
	for _, id := range ids {
		p.list = append(p.list, &plugin.Device{ID: id, Health: plugin.Healthy})
	}
	return p
}

// Start waits for the manager, which removes old sockets when it begins, serves on a socket and registers.
func (p *Plugin) Start(socket string) {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		if _, err := os.Stat(filepath.Join(p.dir, "kubelet.sock")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatal("there is no manager of devices in " + p.dir)
		}
	}
	listener, err := net.Listen("unix", filepath.Join(p.dir, socket))
	if err != nil {
		p.t.Fatal(err)
	}
	p.Server = grpc.NewServer()
	plugin.RegisterDevicePluginServer(p.Server, p)
	go func() { _ = p.Server.Serve(listener) }()
	p.t.Cleanup(p.Server.Stop)
	if err := Register(p.t, p.dir, &plugin.RegisterRequest{Version: plugin.Version, Endpoint: socket, ResourceName: Resource}); err != nil {
		p.t.Fatal(err)
	}
}

// Register asks the manager in dir to take a plug-in in.
func Register(t testing.TB, dir string, q *plugin.RegisterRequest) error {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = plugin.NewRegistrationClient(conn).Register(ctx, q, grpc.WaitForReady(true))
	return err
}

// Health changes that of a device.
func (p *Plugin) Health(id, health string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, d := range p.list {
		if d.ID == id {
			p.list[i] = &plugin.Device{ID: id, Health: health}
		}
	}
	p.changed <- struct{}{}
}

func (p *Plugin) called(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, what)
}

// Said is what the plug-in was asked, in order.
func (p *Plugin) Said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

func (p *Plugin) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return p.Options, nil
}

func (p *Plugin) ListAndWatch(_ *plugin.Empty, s plugin.DevicePlugin_ListAndWatchServer) error {
	for {
		p.mu.Lock()
		list := slices.Clone(p.list)
		p.mu.Unlock()
		if err := s.Send(&plugin.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
		select {
		case <-s.Context().Done():
			return nil
		case <-p.changed:
		}
	}
}

func (p *Plugin) Allocate(_ context.Context, q *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	ids := q.ContainerRequests[0].DevicesIds
	p.called("allocate " + strings.Join(ids, ","))
	if p.Refuse != nil {
		return nil, p.Refuse
	}
	answer := &plugin.ContainerAllocateResponse{
		Envs:        map[string]string{"THINGS": strings.Join(ids, ",")},
		Annotations: map[string]string{"thing": "yes"},
		Mounts:      []*plugin.Mount{{HostPath: "/etc", ContainerPath: "/thing", ReadOnly: true}},
	}
	for _, id := range ids {
		answer.Devices = append(answer.Devices, &plugin.DeviceSpec{HostPath: "/dev/null", ContainerPath: "/dev/" + id, Permissions: "rw"})
	}
	return &plugin.AllocateResponse{ContainerResponses: []*plugin.ContainerAllocateResponse{answer}}, nil
}

func (p *Plugin) GetPreferredAllocation(_ context.Context, q *plugin.PreferredAllocationRequest) (*plugin.PreferredAllocationResponse, error) {
	p.called("prefer of " + strings.Join(q.ContainerRequests[0].AvailableDeviceIDs, ","))
	return &plugin.PreferredAllocationResponse{ContainerResponses: []*plugin.ContainerPreferredAllocationResponse{{DeviceIDs: p.Prefer}}}, nil
}

func (p *Plugin) PreStartContainer(_ context.Context, q *plugin.PreStartContainerRequest) (*plugin.PreStartContainerResponse, error) {
	p.called("start " + strings.Join(q.DevicesIds, ","))
	return &plugin.PreStartContainerResponse{}, nil
}
