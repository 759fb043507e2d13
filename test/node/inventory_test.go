package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerdclient "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/agent/containerd"
	"mgr/test/cluster"
)

// inventory is everything that a node has on account of pods, held against the pods that the API says it has.
type inventory struct {
	node   *cluster.Node
	layout containerd.Layout

	pods map[string]corev1.Pod // that belong here, by UID
	ips  map[string]bool       // of all pods of the cluster
	ids  map[string]bool       // of the containers of these pods
	gone []string              // UIDs that must not be mentioned anywhere on the machine
	errs []error
}

// leftovers returns what a node has beyond what its pods need. gone are the UIDs of pods that were deleted.
func leftovers(ctx context.Context, node *cluster.Node, gone []string) error {
	i := &inventory{node: node, layout: node.Layout, gone: gone,
		pods: map[string]corev1.Pod{}, ips: map[string]bool{}, ids: map[string]bool{}}
	list, err := shared.Kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range list.Items {
		i.ips[p.Status.PodIP] = true
		if p.Spec.NodeName == node.Name {
			i.pods[string(p.UID)] = p
		}
	}
	for _, look := range []func(context.Context) error{i.runtime, i.directories, i.mounts, i.cgroups, i.processes, i.network} {
		if err := look(ctx); err != nil {
			return fmt.Errorf("looking for leftovers on %s: %w", node.Name, err)
		}
	}
	if len(i.errs) > 0 {
		return fmt.Errorf("%s has, for %d pods: %w", node.Name, len(i.pods), errors.Join(i.errs...))
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
	if err := i.stored(ctx, client); err != nil {
		return err
	}
	if err := collect(ctx, client); err != nil {
		return err
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

// collect has containerd collect its garbage now. It does so after a while, if something was removed: then it also removes directories
// of file systems whose removal was cut off.
func collect(ctx context.Context, client *containerdclient.Client) error {
	const name = "inventory"
	snaps, all := client.SnapshotService("overlayfs"), client.LeasesService()
	if _, err := snaps.Prepare(ctx, name, ""); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	if err := snaps.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	lease, err := all.Create(ctx, leases.WithID(name))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return all.Delete(ctx, lease, leases.SynchronousDelete)
}

// stored is what containerd keeps beside containers: tasks, leases, and downloads that nobody goes on with.
func (i *inventory) stored(ctx context.Context, client *containerdclient.Client) error {
	answer, err := client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return err
	}
	for _, t := range answer.Tasks {
		if !i.ids[t.ID] {
			i.left("task", t.ID)
		}
	}
	held, err := client.LeasesService().List(ctx)
	if err != nil {
		return err
	}
	for _, l := range held {
		i.left("lease", l.ID)
	}
	ingests, err := client.ContentStore().ListStatuses(ctx)
	if err != nil {
		return err
	}
	for _, s := range ingests {
		i.left("unfinished download", s.Ref)
	}
	return nil
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
	return i.shimHomes()
}

// shimHomes: there is a shim for each pod, and one in advance, and each has a home.
func (i *inventory) shimHomes() error {
	l := i.layout
	entries, err := os.ReadDir(filepath.Join(l.Run, "shims"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		mark := []byte("-id\x00" + e.Name() + "\x00")
		if len(cluster.Processes(func(args []byte) bool { return bytes.Contains(args, mark) })) == 0 {
			i.left("home of a shim:", e.Name())
		}
	}
	sockets, err := os.ReadDir(l.ShimSockets())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(sockets) > len(i.pods)+1 {
		i.left("sockets of shims:", fmt.Sprintf("%d in %s", len(sockets), l.ShimSockets()))
	}
	return nil
}

func (i *inventory) isPod(uid string) bool      { _, ok := i.pods[uid]; return ok }
func (i *inventory) isContainer(id string) bool { return i.ids[id] }

// mounts in every mount namespace of the machine that one of our processes is in, this one's included.
func (i *inventory) mounts(context.Context) error {
	seen := map[string]bool{}
	pids := append(i.node.Shims(), os.Getpid(), i.node.ContainerdPID())
	for _, pid := range append(pids, i.node.Agents()...) {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[ns] {
			continue // it ended
		}
		seen[ns] = true
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			i.mount(strings.Fields(line)[1])
		}
	}
	return nil
}

func (i *inventory) mount(path string) {
	if !strings.HasPrefix(path, i.layout.Dir+"/") && !strings.HasPrefix(path, i.layout.Run+"/") {
		return
	}
	known := func(part string) bool { return i.isPod(part) || i.isContainer(part) }
	if !slices.ContainsFunc(strings.Split(path, "/"), known) {
		i.left("mount", path)
	}
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
	for _, dir := range dirs {
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err == nil && i.isGone(string(cgroup)) {
			i.left("process", dir)
		}
	}
	if shims := i.node.Shims(); len(shims) > len(i.pods)+1 {
		i.left("shims:", fmt.Sprintf("%d processes: %v", len(shims), shims))
	}
	if runcs := i.node.Runcs(); len(runcs) > len(i.pods) {
		i.left("runcs:", fmt.Sprintf("%d processes", len(runcs)))
	}
	if n := len(i.node.Agents()); n != 1 {
		i.left("agents:", fmt.Sprintf("%d processes", n))
	}
	return nil
}

var podAddress = regexp.MustCompile(`\b10\.42\.\d+\.\d+\b`)

// network: the host's side of pods' links, and rules that name addresses.
func (i *inventory) network(ctx context.Context) error {
	in := func(args ...string) (string, error) {
		out := i.node.InNet(ctx, args...)
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

// processUse is what a node's agent holds of the kernel.
type processUse struct{ files, threads int }

func nodeProcesses(t testing.TB, node *cluster.Node) processUse {
	t.Helper()
	count := func(what string) int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", node.AgentPID(t), what))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	return processUse{files: count("fd"), threads: count("task")}
}

// agentsAreSlim: the agents hold no more files than before all the pods. (Threads are for the log: Go does not give them back.)
func (s *storm) agentsAreSlim(t *testing.T) {
	t.Helper()
	for _, node := range bothNodes() {
		before := s.processes[node.Name]
		var now processUse
		cluster.Eventually(t, 30*time.Second, "the agent of "+node.Name+" has closed its files", func(context.Context) error {
			if now = nodeProcesses(t, node); now.files > before.files+12 {
				return fmt.Errorf("it has %d files open, before it were %d", now.files, before.files)
			}
			return nil
		})
		t.Logf("%s: %+v, before %+v", node.Name, now, before)
	}
}
