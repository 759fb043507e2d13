package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	containerdclient "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/agent/containerd"
	"mgr/test/cluster"
)

// inventory is everything that a node has on account of pods, held against the pods that the API says it has.
type inventory struct {
	c      *cluster.Cluster
	node   string
	layout containerd.Layout

	pods map[string]corev1.Pod // that belong here, by UID
	ips  map[string]bool       // of all pods of the cluster
	ids  map[string]bool       // of the containers of these pods
	gone []string              // UIDs that must not be mentioned anywhere on the machine
	errs []error
}

// leftovers returns what a node has beyond what its pods need. gone are the UIDs of pods that were deleted.
func leftovers(ctx context.Context, c *cluster.Cluster, node string, gone []string) error {
	i := &inventory{c: c, node: node, layout: containerd.NewLayout(filepath.Join(c.Dir, node)), gone: gone,
		pods: map[string]corev1.Pod{}, ips: map[string]bool{}, ids: map[string]bool{}}
	list, err := c.Kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range list.Items {
		i.ips[p.Status.PodIP] = true
		if p.Spec.NodeName == node {
			i.pods[string(p.UID)] = p
		}
	}
	for _, look := range []func(context.Context) error{i.runtime, i.directories, i.mounts, i.cgroups, i.processes, i.network} {
		if err := look(ctx); err != nil {
			return fmt.Errorf("looking for leftovers on %s: %w", node, err)
		}
	}
	if len(i.errs) > 0 {
		return fmt.Errorf("%s has, for %d pods: %w", node, len(i.pods), errors.Join(i.errs...))
	}
	return nil
}

func (i *inventory) left(what, item string) {
	i.errs = append(i.errs, fmt.Errorf("%s %s", what, item))
}

// runtime asks containerd itself.
func (i *inventory) runtime(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, containerd.Namespace)
	client, err := containerdclient.New(i.layout.Address(), containerdclient.WithDefaultNamespace(containerd.Namespace))
	if err != nil {
		return err
	}
	defer client.Close()
	all, err := client.ContainerService().List(ctx)
	if err != nil {
		return err
	}
	instances := map[string]int{}
	for _, e := range all {
		uid, name := e.Labels["mgr.io/pod-uid"], e.Labels["mgr.io/container"]
		if _, ok := i.pods[uid]; !ok {
			i.left("container", e.ID+" of pod "+uid)
			continue
		}
		i.ids[e.ID] = true
		// The one that runs, and the one before it for `mgr logs --previous`.
		if instances[uid+name]++; instances[uid+name] > 2 {
			i.left("an old instance", e.ID+" of "+name)
		}
	}
	on := 0
	err = client.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		on++
		if s.Kind == snapshots.KindActive && !i.ids[s.Name] {
			i.left("snapshot", s.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	dirs, err := os.ReadDir(filepath.Join(i.layout.Root(), "io.containerd.snapshotter.v1.overlayfs", "snapshots"))
	if len(dirs) > on {
		i.left("directories of snapshots:", fmt.Sprintf("%d for %d", len(dirs), on))
	}
	return err
}

// directories are named by pods or by containers.
func (i *inventory) directories(context.Context) error {
	l := i.layout
	for _, dir := range []struct {
		path string
		ours func(name string) bool
	}{
		{filepath.Join(l.Dir, "pods"), i.isPod},
		{filepath.Join(l.Dir, "sandboxes"), i.isPod},
		{filepath.Join(l.Dir, "network", "pods"), func(name string) bool { return i.isPod(strings.TrimSuffix(name, ".json")) }},
		{filepath.Join(l.Dir, "logs"), func(name string) bool { return i.isPod(name[strings.LastIndex(name, "_")+1:]) }},
		{filepath.Join(l.Dir, "containers"), i.isContainer},
		{filepath.Join(l.Run, "io"), i.isContainer},
		{filepath.Join(l.RuncRoot(), containerd.Namespace), i.isContainer},
		{filepath.Join(l.State(), "io.containerd.runtime.v2.task", containerd.Namespace), i.isContainer},
		{filepath.Join(l.Root(), "io.containerd.runtime.v2.task", containerd.Namespace), i.isContainer},
	} {
		entries, err := os.ReadDir(dir.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if !dir.ours(e.Name()) {
				i.left("directory", filepath.Join(dir.path, e.Name()))
			}
		}
	}
	// A shim for each pod, and one in advance.
	for _, dir := range []string{filepath.Join(l.Run, "shims"), l.ShimSockets()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(entries) > len(i.pods)+1 {
			i.left("homes of shims:", fmt.Sprintf("%d in %s", len(entries), dir))
		}
	}
	return nil
}

func (i *inventory) isPod(uid string) bool      { _, ok := i.pods[uid]; return ok }
func (i *inventory) isContainer(id string) bool { return i.ids[id] }

func (i *inventory) mounts(context.Context) error {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		path := strings.Fields(line)[1]
		if !strings.HasPrefix(path, i.layout.Dir+"/") {
			continue
		}
		known := func(part string) bool { return i.isPod(part) || i.isContainer(part) }
		if !slices.ContainsFunc(strings.Split(path, "/"), known) {
			i.left("mount", path)
		}
	}
	return nil
}

func (i *inventory) isGone(text string) bool {
	return slices.ContainsFunc(i.gone, func(uid string) bool { return strings.Contains(text, uid) })
}

func (i *inventory) cgroups(context.Context) error {
	return filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "pod") && i.isGone(d.Name()) {
			i.left("cgroup", path)
		}
		return nil // groups come and go
	})
}

func (i *inventory) processes(context.Context) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	shims := 0
	for _, dir := range dirs {
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			continue // it ended
		}
		if i.isGone(string(cgroup)) {
			i.left("process", dir)
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && strings.Contains(string(cmdline), "-address\x00"+i.layout.Address()+"\x00") {
			shims++
		}
	}
	if shims > len(i.pods)+1 {
		i.left("shims:", fmt.Sprintf("%d processes", shims))
	}
	return nil
}

var podAddress = regexp.MustCompile(`\b10\.42\.\d+\.\d+\b`)

// network: the host's side of pods' links, and rules that name addresses.
func (i *inventory) network(ctx context.Context) error {
	in := func(args ...string) (string, error) {
		ns := "--net=/run/netns/" + i.c.Name + "-" + i.node
		out := cluster.Run(exec.CommandContext(ctx, "nsenter", append([]string{ns}, args...)...))
		if out.Code != 0 {
			return "", fmt.Errorf("%v: %s", args, out.Stderr)
		}
		return out.Stdout, nil
	}
	links, err := in("ip", "-o", "link", "show", "type", "veth", "master", "mgr0")
	if err != nil {
		return err
	}
	if n := strings.Count(links, "\n"); n > len(i.pods) {
		i.left("links:", links)
	}
	for _, args := range [][]string{{"iptables-save"}, {"ip", "route"}, {"ip", "neigh", "show", "nud", "permanent"}} {
		text, err := in(args...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			for _, ip := range podAddress.FindAllString(line, -1) {
				// Ranges end with 0, the nodes' own addresses with 1.
				if !i.ips[ip] && !strings.HasSuffix(ip, ".0") && !strings.HasSuffix(ip, ".1") {
					i.left(args[0]+":", strings.TrimSpace(line))
				}
			}
		}
	}
	return nil
}
