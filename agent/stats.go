package agent

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"

	"mgr/agent/cgroup"
	"mgr/agent/machine"
	"mgr/agent/volume"
)

// diskFresh is how old a measurement of files may be in a summary: walking them is what costs.
const diskFresh = time.Minute

// serveStats answers with kubelet's summary; only_cpu_and_memory=true leaves out all that is on disks and networks.
func (a *Agent) serveStats(w http.ResponseWriter, r *http.Request) {
	s, err := a.summary(r.Context(), r.URL.Query().Get("only_cpu_and_memory") != "true")
	a.answer(w, s, err)
}

// summary is everything that the node and its pods use now.
func (a *Agent) summary(ctx context.Context, full bool) (*stats.Summary, error) {
	pods := a.settledPods(ctx, deep, nil)
	node, err := a.settledNode(ctx)
	if err != nil {
		return nil, err
	}
	s := &stats.Summary{Node: a.nodeStats(&node), Pods: make([]stats.PodStats, 0, len(pods))}
	for i := range pods {
		p := wirePod(&pods[i])
		if full {
			a.addNetwork(&p, &pods[i])
			a.addDisks(ctx, &p, &pods[i], diskFresh)
		}
		s.Pods = append(s.Pods, p)
	}
	s.Node.SystemContainers = a.systemContainers(&node)
	if full {
		a.addMachine(ctx, &s.Node, s.Pods)
	}
	return s, nil
}

func (a *Agent) nodeStats(s *nodeSample) stats.NodeStats {
	at := metav1.NewTime(s.At)
	out := stats.NodeStats{
		NodeName: a.cfg.NodeName, StartTime: metav1.NewTime(a.cfg.Machine.Started()),
		CPU: &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &s.CPUNanos},
		Memory: &stats.MemoryStats{
			Time: at, AvailableBytes: ptr.To(less(s.Memory.Available, a.hugePages())), UsageBytes: &s.Memory.Used, WorkingSetBytes: &s.Memory.WorkingSet,
			RSSBytes: &s.Memory.RSS, PageFaults: &s.Memory.Faults, MajorPageFaults: &s.Memory.MajorFaults,
		},
		Swap: &stats.SwapStats{Time: at, SwapAvailableBytes: &s.Memory.SwapFree, SwapUsageBytes: ptr.To(less(s.Memory.SwapTotal, s.Memory.SwapFree))},
	}
	if s.Window > 0 {
		out.CPU.UsageNanoCores = &s.NanoCores
	}
	if p := cgroup.ReadPressures(a.cfg.Machine.Root+"/proc/pressure", ""); p != nil {
		out.CPU.PSI, out.Memory.PSI = wirePressure(p.CPU), wirePressure(p.Memory)
		out.IO = &stats.IOStats{Time: at, PSI: wirePressure(p.IO)}
	}
	return out
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// hugePages are bytes that nothing but huge pages can use; they look like free memory.
func (a *Agent) hugePages() uint64 {
	var sum int64
	for _, bytes := range a.cfg.Machine.HugePages() {
		sum += bytes
	}
	return uint64(max(sum, 0))
}

// addMachine adds networks, file systems and processes.
func (a *Agent) addMachine(ctx context.Context, out *stats.NodeStats, pods []stats.PodStats) {
	m, now := a.cfg.Machine, metav1.Now()
	if nets, err := m.Interfaces("self"); err == nil {
		out.Network = wireNetwork(now, nets, m.Uplink("self"))
	}
	out.Fs = a.fsStats(a.cfg.Dir)
	images, layers := a.fsStats(a.cfg.ImageDir), a.fsStats(a.cfg.ImageDir)
	if images != nil {
		if use, err := a.meter.use("images", diskFresh, func() (machine.Use, error) { return a.imageUse(ctx) }); err == nil {
			images.UsedBytes, images.InodesUsed = &use.Bytes, nil
		}
		var written uint64
		for i := range pods {
			for _, c := range pods[i].Containers {
				if c.Rootfs != nil {
					written += ptr.Deref(c.Rootfs.UsedBytes, 0)
				}
			}
		}
		layers.UsedBytes, layers.InodesUsed = &written, nil
	}
	out.Runtime = &stats.RuntimeStats{ImageFs: images, ContainerFs: layers}
	if tasks, most, err := m.Tasks(); err == nil {
		out.Rlimit = &stats.RlimitStats{Time: now, MaxPID: &most, NumOfRunningProcesses: &tasks}
	}
}

// imageUse is the size of all images.
func (a *Agent) imageUse(ctx context.Context) (u machine.Use, err error) {
	images, err := a.runtime.Images(ctx)
	for _, i := range images {
		u.Bytes += uint64(max(i.Size, 0))
	}
	return u, err
}

// fsStats describes the file system of a path; nil if it does not answer.
func (a *Agent) fsStats(path string) *stats.FsStats {
	f, err := a.cfg.Machine.Fs(path)
	if err != nil {
		return nil
	}
	return wireFs(f, metav1.Now())
}

func wireFs(f machine.Fs, at metav1.Time) *stats.FsStats {
	return &stats.FsStats{
		Time: at, AvailableBytes: &f.Available, CapacityBytes: &f.Capacity, UsedBytes: &f.Used,
		Inodes: &f.Inodes, InodesFree: &f.InodesFree, InodesUsed: ptr.To(less(f.Inodes, f.InodesFree)),
	}
}

// systemContainers are all pods together, and this program.
func (a *Agent) systemContainers(node *nodeSample) []stats.ContainerStats {
	var out []stats.ContainerStats
	if s, err := a.sampleCgroup(filepath.Join("/", a.cfg.CgroupRoot), time.Time{}, deep); err == nil {
		c := wireContainer(stats.SystemContainerPods, &s)
		c.Memory.AvailableBytes = ptr.To(less(uint64(max(a.podMemory().Value(), 0)), s.WorkingSet))
		out = append(out, c)
	}
	cpu, rss := machine.Self()
	at := metav1.NewTime(node.At)
	self := stats.ContainerStats{
		Name: stats.SystemContainerKubelet, StartTime: metav1.NewTime(a.begun),
		CPU:    &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &cpu},
		Memory: &stats.MemoryStats{Time: at, RSSBytes: &rss, WorkingSetBytes: &rss, UsageBytes: &rss},
	}
	if rate, _, ok := a.meter.rate("self", reading{node.At, cpu}, a.begun); ok {
		self.CPU.UsageNanoCores = &rate
	}
	return append(out, self)
}

func wirePod(s *podSample) stats.PodStats {
	whole := wireContainer("", &s.Whole)
	p := stats.PodStats{
		PodRef: stats.PodReference{Name: s.Pod.Name, Namespace: s.Pod.Namespace, UID: s.UID},
		CPU:    whole.CPU, Memory: whole.Memory, IO: whole.IO, Swap: whole.Swap,
		ProcessStats: &stats.ProcessStats{ProcessCount: &s.Whole.Pids},
	}
	if t := s.Pod.Status.StartTime; t != nil {
		p.StartTime = *t
	}
	for i := range s.Containers {
		p.Containers = append(p.Containers, wireContainer(s.Containers[i].Name, &s.Containers[i].sample))
	}
	return p
}

func wireContainer(name string, s *sample) stats.ContainerStats {
	at := metav1.NewTime(s.At)
	out := stats.ContainerStats{
		Name: name, StartTime: metav1.NewTime(s.Since),
		CPU: &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &s.CPUNanos},
		Memory: &stats.MemoryStats{
			Time: at, UsageBytes: &s.Memory, WorkingSetBytes: &s.WorkingSet, RSSBytes: &s.RSS, PageFaults: &s.Faults, MajorPageFaults: &s.MajorFaults,
		},
		Swap: &stats.SwapStats{Time: at, SwapUsageBytes: &s.Swap, SwapAvailableBytes: ptr.To(less(s.SwapLimit, s.Swap))},
	}
	if s.Window > 0 {
		out.CPU.UsageNanoCores = &s.NanoCores
	}
	if s.MemoryLimit > 0 {
		out.Memory.AvailableBytes = ptr.To(less(s.MemoryLimit, s.WorkingSet))
	}
	if p := s.Pressure; p != nil {
		out.CPU.PSI, out.Memory.PSI = wirePressure(p.CPU), wirePressure(p.Memory)
		out.IO = &stats.IOStats{Time: at, PSI: wirePressure(p.IO)}
	}
	return out
}

// wirePressure: the kernel counts microseconds, the summary nanoseconds.
func wirePressure(p cgroup.Pressure) *stats.PSIStats {
	data := func(s cgroup.Stall) stats.PSIData {
		return stats.PSIData{Total: s.Total * 1000, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &stats.PSIStats{Full: data(p.Full), Some: data(p.Some)}
}

func wireNetwork(at metav1.Time, nets []machine.Interface, uplink string) *stats.NetworkStats {
	out := &stats.NetworkStats{Time: at}
	for i := range nets {
		n := &nets[i]
		wire := stats.InterfaceStats{Name: n.Name, RxBytes: &n.RxBytes, RxErrors: &n.RxErrors, TxBytes: &n.TxBytes, TxErrors: &n.TxErrors}
		out.Interfaces = append(out.Interfaces, wire)
		if n.Name == uplink {
			out.InterfaceStats = wire
		}
	}
	return out
}

func (a *Agent) addNetwork(p *stats.PodStats, s *podSample) {
	if len(s.Networks) > 0 {
		p.Network = wireNetwork(metav1.NewTime(s.Whole.At), s.Networks, s.Uplink)
	}
}

// addDisks adds what containers, logs and volumes take of the disk; what cannot be measured now is left out.
func (a *Agent) addDisks(ctx context.Context, p *stats.PodStats, s *podSample, fresh time.Duration) {
	at := metav1.Now()
	images, node := a.fsStats(a.cfg.ImageDir), a.fsStats(a.cfg.Dir)
	var sum machine.Use
	for i := range p.Containers {
		c, id := &p.Containers[i], s.Containers[i].ID
		layer, err := a.layer(ctx, id, fresh)
		if err == nil {
			c.Rootfs = used(images, layer, at)
			sum.Add(layer)
		}
		logs, err := machine.DiskUse(filepath.Dir(s.Containers[i].LogPath))
		if err == nil && s.Containers[i].LogPath != "" {
			c.Logs = used(node, logs, at)
			sum.Add(logs)
		}
	}
	for i := range s.Pod.Spec.Volumes {
		v := &s.Pod.Spec.Volumes[i]
		fs, local := a.volumeUse(s.UID, v, fresh)
		if fs == nil {
			continue
		}
		p.VolumeStats = append(p.VolumeStats, stats.VolumeStats{Name: v.Name, FsStats: *fs, PVCRef: claimOf(s.Pod, v)})
		if local {
			sum.Add(machine.Use{Bytes: ptr.Deref(fs.UsedBytes, 0), Inodes: ptr.Deref(fs.InodesUsed, 0)})
		}
	}
	if hosts, err := machine.DiskUse(filepath.Join(a.volumes.PodDir(s.UID), "etc-hosts")); err == nil {
		sum.Add(hosts)
	}
	p.EphemeralStorage = used(node, sum, at)
}

// layer is what a container has written to its root file system.
func (a *Agent) layer(ctx context.Context, id string, fresh time.Duration) (machine.Use, error) {
	return a.meter.use("layer "+id, fresh, func() (machine.Use, error) { return a.runtime.Layer(ctx, id) })
}

// used is a file system, and what of it one user takes.
func used(fs *stats.FsStats, u machine.Use, at metav1.Time) *stats.FsStats {
	out := stats.FsStats{}
	if fs != nil {
		out = *fs
	}
	out.Time, out.UsedBytes, out.InodesUsed = at, &u.Bytes, &u.Inodes
	return &out
}

// volumeUse measures a volume; nil: this kind is not measured, or is not there. local: it counts as the pod's ephemeral storage.
func (a *Agent) volumeUse(uid string, v *v1.Volume, fresh time.Duration) (fs *stats.FsStats, local bool) {
	paths, err := filepath.Glob(filepath.Join(a.volumes.PodDir(uid), "volumes", "kubernetes.io~*", v.Name))
	if err != nil || len(paths) == 0 || v.HostPath != nil || v.Image != nil {
		return nil, false
	}
	path := paths[0]
	of, err := a.cfg.Machine.Fs(path)
	if err != nil {
		return nil, false
	}
	at := metav1.Now()
	own, err := a.cfg.Machine.Fs(a.cfg.Dir)
	if err != nil || of.Device != own.Device { // a file system of its own says by itself what is used of it
		return wireFs(of, at), false
	}
	use, err := a.meter.use(path, fresh, func() (machine.Use, error) { return volume.Usage(path) })
	if err != nil {
		return nil, false
	}
	return used(wireFs(of, at), use, at), v.PersistentVolumeClaim == nil && v.Ephemeral == nil
}

func claimOf(pod *v1.Pod, v *v1.Volume) *stats.PVCReference {
	switch {
	case v.PersistentVolumeClaim != nil:
		return &stats.PVCReference{Name: v.PersistentVolumeClaim.ClaimName, Namespace: pod.Namespace}
	case v.Ephemeral != nil:
		return &stats.PVCReference{Name: pod.Name + "-" + v.Name, Namespace: pod.Namespace}
	}
	return nil
}

// hostCgroups are this machine's, nil where there are none.
func hostCgroups() *cgroup.FS {
	f, err := cgroup.Host()
	if err != nil {
		return nil
	}
	return f
}

// imageDir is where a containerd keeps what it unpacks: below the agent's own directory, or that of the host's.
func imageDir(cfg *Config) string {
	if cfg.ImageDir != "" {
		if _, err := os.Stat(cfg.ImageDir); err == nil {
			return cfg.ImageDir
		}
	}
	return cfg.Dir
}
