package main

import (
	"context"
	"os"
	"strings"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

func init() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			down, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			inner, err := task.NewTaskService(ic.Context, publisher.(shim.Publisher), down.(shutdown.Service))
			if err != nil {
				return nil, err
			}
			s := &service{TTRPCTaskService: inner, kept: map[string][]*os.File{}}
			if os.Getenv(warmVariable) != "" {
				go s.endUnclaimed()
			}
			return s, nil
		},
	})
}

// service is containerd's task service, which also keeps the reading end of each container's output pipes open until the
// container is deleted. Without that, what a container said last would be lost if it ended while no agent was reading: a pipe
// that nobody has open forgets its content.
type service struct {
	taskapi.TTRPCTaskService
	mu    sync.Mutex
	kept  map[string][]*os.File // by container
	live  int                   // containers, those being made included
	alone bool                  // the agent that started this shim is gone
}

// RegisterTTRPC implements what the shim wants of a service.
func (s *service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	return nil
}

func (s *service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	s.keep(r.ID, r.Stdout, r.Stderr)
	answer, err := s.TTRPCTaskService.Create(ctx, r)
	if err != nil {
		s.release(r.ID)
		s.endIfIdle()
	}
	return answer, err
}

func (s *service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	answer, err := s.TTRPCTaskService.Delete(ctx, r)
	if err == nil && r.ExecID == "" {
		s.release(r.ID)
	}
	return answer, err
}

// keep opens what is a pipe; other kinds of output (a file, a logging program) do not need it, and a failure shows when the
// task itself opens the pipe.
func (s *service) keep(id string, paths ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live++
	for _, path := range paths {
		if path == "" || strings.Contains(path, "://") {
			continue
		}
		if f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			s.kept[id] = append(s.kept[id], f)
		}
	}
}

func (s *service) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.kept[id] {
		_ = f.Close()
	}
	delete(s.kept, id)
	s.live--
}
