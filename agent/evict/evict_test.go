package evict

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

func TestThresholds(t *testing.T) {
	text := func(all []Threshold) string {
		var out []string
		for _, t := range all {
			value := fmt.Sprintf("%g", t.Value.Share)
			if t.Value.Quantity != nil {
				value = t.Value.Quantity.String()
			}
			line := fmt.Sprintf("%s<%s", t.Signal, value)
			if t.Grace > 0 {
				line += "/" + t.Grace.String()
			}
			if t.MinReclaim.Quantity != nil {
				line += "+" + t.MinReclaim.Quantity.String()
			}
			out = append(out, line)
		}
		return strings.Join(out, " ")
	}
	for name, c := range map[string]struct {
		config Config
		want   string // or a part of the error, after "!"
	}{
		"the defaults": {Config{}, "imagefs.available<0.15 imagefs.inodesFree<0.05 memory.available<100Mi allocatableMemory.available<100Mi nodefs.available<0.1 nodefs.inodesFree<0.05"},
		"none":         {Config{Hard: map[string]string{}}, ""},
		"switched off": {Config{Hard: map[string]string{"nodefs.available": "0%", "pid.available": "100%"}}, ""},
		"all kinds": {Config{
			Hard: map[string]string{"pid.available": "1k"}, Soft: map[string]string{"memory.available": "10%"},
			SoftGrace: map[string]string{"memory.available": "90s"}, MinReclaim: map[string]string{"pid.available": "10"},
		}, "pid.available<1k+10 memory.available<0.1/1m30s"},
		"soft without a grace": {Config{Soft: map[string]string{"memory.available": "1Gi"}}, "!say in --eviction-soft-grace-period"},
		"no such signal":       {Config{Hard: map[string]string{"cpu.available": "1"}}, "!--eviction-hard cpu.available=1: there is no such signal: use containerfs.available,"},
		"not a quantity":       {Config{Hard: map[string]string{"memory.available": "much"}}, "!use a quantity above 0"},
		"nothing":              {Config{Hard: map[string]string{"memory.available": "0"}}, "!use a quantity above 0"},
		"too large a share":    {Config{Hard: map[string]string{"memory.available": "101%"}}, "!or a share"},
		"the derived signal":   {Config{Hard: map[string]string{"allocatableMemory.available": "1"}}, "!no such signal"},
		"a wrong grace":        {Config{SoftGrace: map[string]string{"memory.available": "-1s"}}, "!use a signal of --eviction-soft"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.config.Thresholds()
			if part, wrong := strings.CutPrefix(c.want, "!"); wrong {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || text(got) != c.want {
				t.Errorf("%s, %v\nwant %s", text(got), err, c.want)
			}
		})
	}
}

func TestReserved(t *testing.T) {
	thresholds, err := Config{}.Thresholds()
	if err != nil {
		t.Fatal(err)
	}
	got := Reserved(thresholds, v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourceEphemeralStorage: resource.MustParse("100Gi"), v1.ResourceCPU: resource.MustParse("2")})
	if got.Memory().String() != "100Mi" || got.StorageEphemeral().String() != "10Gi" || len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func available(of map[Signal]string) Observations {
	o := Observations{}
	for s, text := range of {
		q := resource.MustParse(text)
		o[s] = Observation{Available: &q, Capacity: ptr.To(resource.MustParse("1000"))}
	}
	return o
}

func TestLook(t *testing.T) {
	quantity := func(s string) Amount { return Amount{Quantity: ptr.To(resource.MustParse(s))} }
	thresholds := []Threshold{
		{Signal: NodeFs, Value: Amount{Share: .1}},
		{Signal: Memory, Value: quantity("100"), MinReclaim: quantity("50")},
		{Signal: Memory, Value: quantity("300"), Grace: time.Minute},
	}
	type look struct {
		after      time.Duration // since the first
		see        map[Signal]string
		conditions string
		due        string
	}
	for name, looks := range map[string][]look{
		"enough of everything":          {{0, map[Signal]string{Memory: "500", NodeFs: "500"}, "[]", ""}},
		"what is not seen is not short": {{0, nil, "[]", ""}},
		"a hard threshold acts at once": {{0, map[Signal]string{NodeFs: "99"}, "[DiskPressure]", "nodefs.available/0s"}},
		"just enough is enough":         {{0, map[Signal]string{NodeFs: "100"}, "[]", ""}},
		"memory goes first":             {{0, map[Signal]string{NodeFs: "9", Memory: "9"}, "[MemoryPressure DiskPressure]", "memory.available/0s nodefs.available/0s"}},
		"a soft threshold waits, the condition does not": {
			{0, map[Signal]string{Memory: "200"}, "[MemoryPressure]", ""},
			{59 * time.Second, map[Signal]string{Memory: "200"}, "[MemoryPressure]", ""},
			{60 * time.Second, map[Signal]string{Memory: "200"}, "[MemoryPressure]", "memory.available/1m0s"},
		},
		"relief in between begins the grace anew": {
			{0, map[Signal]string{Memory: "200"}, "[MemoryPressure]", ""},
			{30 * time.Second, map[Signal]string{Memory: "400"}, "[MemoryPressure]", ""},
			{70 * time.Second, map[Signal]string{Memory: "200"}, "[MemoryPressure]", ""},
		},
		"more than the threshold must be reclaimed": {
			{0, map[Signal]string{Memory: "90"}, "[MemoryPressure]", "memory.available/0s"},
			{10 * time.Second, map[Signal]string{Memory: "140"}, "[MemoryPressure]", "memory.available/0s"},
			{20 * time.Second, map[Signal]string{Memory: "150"}, "[MemoryPressure]", ""},
			{30 * time.Second, map[Signal]string{Memory: "140"}, "[MemoryPressure]", ""},
		},
		"the condition stays for the transition period": {
			{0, map[Signal]string{NodeFs: "9"}, "[DiskPressure]", "nodefs.available/0s"},
			{4*time.Minute + 59*time.Second, map[Signal]string{NodeFs: "900"}, "[DiskPressure]", ""},
			{5 * time.Minute, map[Signal]string{NodeFs: "900"}, "[]", ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			begin := time.Unix(1000, 0)
			for i, l := range looks {
				conditions, due := s.Look(thresholds, available(l.see), DefaultTransition, begin.Add(l.after))
				var names []string
				for _, d := range due {
					names = append(names, string(d.Signal)+"/"+d.Grace.String())
				}
				if got := fmt.Sprint(conditions); got != l.conditions || strings.Join(names, " ") != l.due {
					t.Errorf("look %d: %s, %s; want %s, %s", i, got, strings.Join(names, " "), l.conditions, l.due)
				}
			}
		})
	}
}

// pod asks for memory and disk in bytes, and uses them.
func pod(name string, priority int32, asks, uses int64) Pod {
	q := resource.NewQuantity(asks, resource.BinarySI)
	requests := v1.ResourceList{v1.ResourceMemory: *q, v1.ResourceEphemeralStorage: *q}
	if asks == 0 {
		requests = nil
	}
	n := uint64(uses)
	return Pod{
		Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{
			Priority: &priority, Containers: []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{Requests: requests}}},
			Volumes: []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}},
		}},
		Use: &stats.PodStats{
			Memory: &stats.MemoryStats{WorkingSetBytes: &n}, ProcessStats: &stats.ProcessStats{ProcessCount: &n},
			Containers: []stats.ContainerStats{{Name: "main", Memory: &stats.MemoryStats{WorkingSetBytes: &n}, Rootfs: &stats.FsStats{UsedBytes: &n, InodesUsed: &n}, Logs: &stats.FsStats{UsedBytes: ptr.To[uint64](0)}}},
		},
	}
}

func TestRank(t *testing.T) {
	unknown := pod("unknown", 1000, 10, 0)
	unknown.Use = nil
	inVolume := pod("in-volume", 0, 0, 1)
	inVolume.Use.VolumeStats = []stats.VolumeStats{{Name: "data", FsStats: stats.FsStats{UsedBytes: ptr.To[uint64](500)}}}
	inMemory := pod("in-memory", 0, 0, 1)
	inMemory.Spec.Volumes[0].EmptyDir.Medium = v1.StorageMediumMemory
	inMemory.Use.VolumeStats = []stats.VolumeStats{{Name: "data", FsStats: stats.FsStats{UsedBytes: ptr.To[uint64](5000)}}}
	for name, c := range map[string]struct {
		signal Signal
		apart  bool
		pods   []Pod
		want   string
	}{
		"over the request before priority": {Memory, false, []Pod{pod("within", -5, 100, 90), pod("over", 1000, 10, 20)}, "over within"},
		"then priority":                    {Memory, false, []Pod{pod("high", 9, 0, 900), pod("low", 1, 0, 5)}, "low high"},
		"then what is beyond the request":  {Memory, false, []Pod{pod("little", 0, 100, 150), pod("much", 0, 0, 60), pod("none", 0, 1000, 900)}, "much little none"},
		"the unknown first among equals":   {AllocatableMemory, false, []Pod{pod("over", 1000, 0, 5), pod("within", 0, 10, 5), unknown}, "unknown over within"},
		"processes by priority alone":      {PID, false, []Pod{pod("high", 9, 0, 900), pod("few", 0, 0, 3), pod("many", 0, 0, 30)}, "many few high"},
		"disk: layers, logs and volumes":   {NodeFs, false, []Pod{pod("layer", 0, 0, 400), inVolume, inMemory}, "in-volume layer in-memory"},
		"disk: images apart":               {NodeFs, true, []Pod{pod("layer", 0, 0, 900), inVolume}, "in-volume layer"},
		"the images' disk: layers only":    {ImageFs, true, []Pod{inVolume, pod("layer", 0, 0, 400)}, "layer in-volume"},
		"inodes":                           {NodeFsInodes, false, []Pod{pod("few", 0, 0, 3), pod("many", 0, 0, 30)}, "many few"},
	} {
		t.Run(name, func(t *testing.T) {
			Rank(c.pods, c.signal, c.apart)
			var names []string
			for _, p := range c.pods {
				names = append(names, p.Name)
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// The words are kubelet's: people and programs look for them.
func TestMessage(t *testing.T) {
	due := []Threshold{{Signal: Memory, Value: Amount{Quantity: ptr.To(resource.MustParse("100Mi"))}}}
	o := Observations{Memory: {Available: ptr.To(resource.MustParse("51200Ki")), Capacity: ptr.To(resource.MustParse("1Gi"))}}
	p := pod("web", 0, 1<<20, 4<<20)
	text, notes := Message(due[0], due, p, o)
	if text != "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container main was using 4Mi, request is 1Mi, has larger consumption of memory. " {
		t.Errorf("%s", text)
	}
	if !reflect.DeepEqual(notes, map[string]string{"offending_containers": "main", "offending_containers_usage": "4Mi", "starved_resource": "memory"}) {
		t.Errorf("%v", notes)
	}
	p.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse("2Mi")}}
	if text, notes = Message(due[0], due, p, o); !strings.Contains(text, "Pod web was using 4Mi, request is 2Mi, has larger consumption of memory. ") || notes["offending_pod"] != "web" {
		t.Errorf("%s %v", text, notes)
	}
	p.Use = nil
	if text, _ = Message(due[0], due, p, o); text != "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " {
		t.Errorf("%s", text)
	}
	pid := Threshold{Signal: PID, Value: Amount{Share: .5}}
	if text, _ = Message(pid, []Threshold{pid}, pod("web", 0, 0, 3), available(map[Signal]string{PID: "10"})); text != "The node was low on resource: pids. Threshold quantity: 500, available: 10. " {
		t.Errorf("%s", text)
	}
}

func TestLimits(t *testing.T) {
	limited := func(limit string, use func(*Pod)) Pod {
		p := pod("web", 0, 0, 0)
		if limit != "" {
			p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse(limit)}
		}
		use(&p)
		return p
	}
	bytes := func(n uint64) *stats.FsStats { return &stats.FsStats{UsedBytes: &n} }
	sized := func(size string, medium v1.StorageMedium, use uint64) func(*Pod) {
		return func(p *Pod) {
			p.Spec.Volumes[0].EmptyDir = &v1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse(size)), Medium: medium}
			p.Use.VolumeStats = []stats.VolumeStats{{Name: "data", FsStats: *bytes(use)}}
		}
	}
	for name, c := range map[string]struct {
		pod     Pod
		apart   bool
		limited bool
		want    string
	}{
		"no limits":            {limited("", func(p *Pod) { p.Use.EphemeralStorage = bytes(1 << 40) }), false, false, ""},
		"within":               {limited("1Mi", func(p *Pod) { p.Use.EphemeralStorage = bytes(1 << 20) }), false, true, ""},
		"the pod":              {limited("1Mi", func(p *Pod) { p.Use.EphemeralStorage = bytes(1<<20 + 1) }), false, true, "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "},
		"a container":          {limited("1Mi", func(p *Pod) { p.Use.Containers[0].Rootfs, p.Use.Containers[0].Logs = bytes(1<<20), bytes(1) }), false, true, `Container main exceeded its local ephemeral storage limit "1Mi". `},
		"its layer is apart":   {limited("1Mi", func(p *Pod) { p.Use.Containers[0].Rootfs, p.Use.Containers[0].Logs = bytes(1<<20), bytes(1) }), true, true, ""},
		"an emptyDir":          {limited("", sized("1Mi", "", 1<<20+1)), false, true, `Usage of EmptyDir volume "data" exceeds the limit "1Mi". `},
		"an emptyDir, within":  {limited("", sized("1Mi", "", 1<<20)), false, true, ""},
		"one in memory":        {limited("", sized("1Mi", v1.StorageMediumMemory, 1<<30)), false, false, ""}, // the kernel's matter
		"nothing is known yet": {Pod{Pod: limited("1Mi", func(*Pod) {}).Pod}, false, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := OverLimit(c.pod, c.apart); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := Limited(c.pod.Pod); got != c.limited {
				t.Errorf("limited: %t", got)
			}
		})
	}
}

func TestAdmits(t *testing.T) {
	memory, disk := v1.NodeMemoryPressure, v1.NodeDiskPressure
	for name, c := range map[string]struct {
		conditions                      []v1.NodeConditionType
		bestEffort, critical, tolerates bool
		refused                         string
	}{
		"a node that is well":           {nil, true, false, false, ""},
		"memory: best-effort":           {[]v1.NodeConditionType{memory}, true, false, false, "The node had condition: [MemoryPressure]. "},
		"memory: with a request":        {[]v1.NodeConditionType{memory}, false, false, false, ""},
		"memory: tolerated":             {[]v1.NodeConditionType{memory}, true, false, true, ""},
		"memory: critical":              {[]v1.NodeConditionType{memory}, true, true, false, ""},
		"disk: all":                     {[]v1.NodeConditionType{disk}, false, false, true, "The node had condition: [DiskPressure]. "},
		"disk: critical":                {[]v1.NodeConditionType{disk}, true, true, false, ""},
		"both: a request does not help": {[]v1.NodeConditionType{memory, disk}, false, false, false, "The node had condition: [MemoryPressure DiskPressure]. "},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Admits(c.conditions, c.bestEffort, c.critical, func(*v1.Taint) bool { return c.tolerates }); got != c.refused {
				t.Errorf("%q, want %q", got, c.refused)
			}
		})
	}
}
