package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fixture makes a directory that looks like a cgroup with the files given as "path: content" lines.
func fixture(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// pod is a v2 tree with the cgroup of one pod.
func pod(t *testing.T) *FS {
	root := t.TempDir()
	files := map[string]string{}
	for _, dir := range []string{"", "kubepods/", "kubepods/pod1/"} {
		files[dir+"cgroup.controllers"] = "cpuset cpu io memory hugetlb pids"
		files[dir+"cgroup.subtree_control"] = "cpu memory"
	}
	for name, value := range map[string]string{
		"cpu.weight": "100", "cpu.max": "max 100000", "memory.max": "max", "memory.swap.max": "max", "memory.high": "max", "pids.max": "max",
		"hugetlb.2MB.max": "max", "memory.oom.group": "0", "cgroup.procs": "",
		"cpu.stat":       "usage_usec 1500\nuser_usec 1000\nsystem_usec 500",
		"memory.current": "1000000", "memory.stat": "anon 500\ninactive_file 400000\nactive_file 7", "pids.current": "3",
		"memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0",
	} {
		files["kubepods/pod1/"+name] = value
	}
	fixture(t, root, files)
	return V2(root)
}

func TestV2Limits(t *testing.T) {
	f := pod(t)
	err := f.Set("kubepods/pod1", Limits{
		CPUShares: 512, CPUQuota: 50_000, Memory: 64 << 20, Pids: 100, HugePages: map[string]int64{"2MB": 4 << 20, "1GB": 0},
		Unified: map[string]string{"memory.oom.group": "1", "memory.high": "max"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu.weight": "59", "cpu.max": "50000 100000", "memory.max": "67108864", "memory.swap.max": "0", "pids.max": "100",
		"hugetlb.2MB.max": "4194304", "memory.oom.group": "1", "memory.high": "max",
	} {
		if got := content(t, f.Mount(), "kubepods/pod1", file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if memory, quota, err := f.Limited("kubepods/pod1"); memory != 64<<20 || quota != 50_000 || err != nil {
		t.Errorf("limited to %d, %d, %v", memory, quota, err)
	}
	if err := f.Set("kubepods/pod1", Limits{CPUQuota: None, CPUPeriod: 50_000, Memory: None, Pids: None}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpu.weight": "59", "cpu.max": "max 50000", "memory.max": "max", "pids.max": "max"} {
		if got := content(t, f.Mount(), "kubepods/pod1", file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if memory, quota, err := f.Limited("kubepods/pod1"); memory != None || quota != None || err != nil {
		t.Errorf("limited to %d, %d, %v", memory, quota, err)
	}
	err = f.Set("kubepods/pod2", Limits{Memory: 1 << 20})
	if !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "it is not there") {
		t.Errorf("limiting what is not there: %v", err)
	}
}

func TestV2UsageAndKills(t *testing.T) {
	f := pod(t)
	if u, err := f.Usage("kubepods/pod1"); err != nil || u != (Usage{CPUNanos: 1_500_000, Memory: 1_000_000, WorkingSet: 600_000, Pids: 3}) {
		t.Errorf("%+v, %v", u, err)
	}
	if n := f.OOMKills("kubepods/pod1"); n != 1 {
		t.Errorf("%d kills", n)
	}
	if n := f.OOMKills("kubepods/gone"); n != 0 {
		t.Errorf("%d kills in a cgroup that is gone", n)
	}
	if _, err := f.Usage("kubepods/gone"); err == nil {
		t.Error("a cgroup that is gone uses something")
	}
}

// Every controller that a cgroup has is given on to its children, and one that is enabled is not enabled again: the plain file
// of this tree keeps only what was last written.
func TestV2Delegation(t *testing.T) {
	root := t.TempDir()
	fixture(t, root, map[string]string{
		"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu memory pids",
		"kubepods/cgroup.controllers": "cpu memory pids", "kubepods/cgroup.subtree_control": "cpu memory",
	})
	f := V2(root)
	if err := f.Make("/kubepods/pod1"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, root, "cgroup.subtree_control"); got != "cpu memory pids" {
		t.Errorf("at the root %q was written", got)
	}
	if got := content(t, root, "kubepods/cgroup.subtree_control"); got != "+pids" {
		t.Errorf("in kubepods %q was written", got)
	}
	if !f.Exists("kubepods/pod1") {
		t.Error("it was not made")
	}
	if err := f.Remove("kubepods/pod1"); err != nil || f.Exists("kubepods/pod1") {
		t.Errorf("it was not removed: %v", err)
	}
	if err := f.Remove("kubepods/pod1"); err != nil {
		t.Errorf("removing it again: %v", err)
	}
}

// The kernel's and runc's table: what a weight is for shares.
func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 102: 17, 512: 59, 1024: 100, 2048: 174, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("weight of %d shares: %d, want %d", shares, got, want)
		}
	}
}

func TestV1Limits(t *testing.T) {
	root := t.TempDir()
	fixture(t, root, map[string]string{
		"cpu/p/cpu.shares": "1024", "cpu/p/cpu.cfs_quota_us": "-1", "cpu/p/cpu.cfs_period_us": "100000",
		"memory/p/memory.limit_in_bytes": "9223372036854771712", "memory/p/memory.memsw.limit_in_bytes": "9223372036854771712",
		"memory/p/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
		"pids/p/pids.max":             "max",
	})
	f := V1(root, "cpu", "memory", "pids")
	if memory, quota, err := f.Limited("p"); memory != None || quota != None || err != nil {
		t.Errorf("limited to %d, %d, %v", memory, quota, err)
	}
	if n := f.OOMKills("p"); n != 2 {
		t.Errorf("%d kills", n)
	}
	if err := f.Set("p", Limits{CPUShares: 204, CPUQuota: 20_000, Memory: 1 << 30, Pids: 7, HugePages: map[string]int64{"2MB": 0},
		Unified: map[string]string{"memory.high": "max"}}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu/p/cpu.shares": "204", "cpu/p/cpu.cfs_quota_us": "20000", "memory/p/memory.limit_in_bytes": "1073741824",
		"memory/p/memory.memsw.limit_in_bytes": "1073741824", "pids/p/pids.max": "7",
	} {
		if got := content(t, root, file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	// Upwards the limit with swap goes first, downwards the one without: the kernel refuses the other order.
	order := func(memory int64) (files []string) {
		for _, s := range f.v1Settings("p", Limits{Memory: memory}) {
			files = append(files, s.file)
		}
		return files
	}
	up, down := []string{"memory.memsw.limit_in_bytes", "memory.limit_in_bytes"}, []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	if got := order(2 << 30); !slices.Equal(got, up) {
		t.Errorf("upwards %v", got)
	}
	if got := order(1 << 20); !slices.Equal(got, down) {
		t.Errorf("downwards %v", got)
	}
	if got := order(None); !slices.Equal(got, up) {
		t.Errorf("without limit %v", got)
	}
}

func TestMerge(t *testing.T) {
	l := Limits{CPUShares: 2, Memory: 5}.Merge(Limits{CPUQuota: None, Memory: 7})
	if l.CPUShares != 2 || l.CPUQuota != None || l.Memory != 7 {
		t.Errorf("%+v", l)
	}
}

// On this machine, with whatever cgroups it has: made, limited, read back, removed.
func TestHost(t *testing.T) {
	f, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	name := "mgr-cgroup-test/" + filepath.Base(t.TempDir())
	t.Cleanup(func() {
		if err := f.Remove(name); err != nil {
			t.Error(err)
		}
		f.RemoveEmpty(filepath.Dir(name))
	})
	if err := f.Make(name); err != nil {
		t.Fatal(err)
	}
	for _, l := range []Limits{
		{CPUShares: 512, CPUQuota: 50_000, Memory: 64 << 20, Pids: 10, HugePages: map[string]int64{"2MB": 0}},
		{Memory: 128 << 20}, {Memory: 32 << 20}, {CPUQuota: None, Memory: None, Pids: None},
	} {
		if err := f.Set(name, l); err != nil {
			t.Fatal(err)
		}
		memory, quota, err := f.Limited(name)
		if err != nil || memory != l.Memory || l.CPUQuota != 0 && quota != l.CPUQuota {
			t.Errorf("after %+v it is limited to %d bytes, %d µs, %v", l, memory, quota, err)
		}
	}
	if u, err := f.Usage(name); err != nil || u.Pids != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if pids, err := Processes(f.Path("memory", name)); err != nil || len(pids) != 0 {
		t.Errorf("processes %v, %v", pids, err)
	}
}

// The v2 tree that this machine has, if any: the only one, or that beside those of v1, which may have controllers that no v1
// tree has. Here it is hugetlb; the test makes a cgroup in it and limits what there is to limit.
func TestHostV2(t *testing.T) {
	host, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(host.Roots(), func(root string) bool { return kind(root) == unix.CGROUP2_SUPER_MAGIC })
	if i < 0 {
		t.Log("this machine has cgroup v1 only")
		return
	}
	f := V2(host.Roots()[i])
	control := filepath.Join(f.Mount(), "cgroup.subtree_control")
	before := strings.Fields(content(t, control))
	name := "mgr-cgroup-v2-test-" + filepath.Base(filepath.Dir(t.TempDir()))
	t.Cleanup(func() {
		if err := f.Remove(name); err != nil {
			t.Error(err)
		}
		for _, c := range strings.Fields(content(t, control)) {
			if !slices.Contains(before, c) {
				if err := write(control, "-"+c); err != nil {
					t.Error(err)
				}
			}
		}
	})
	if err := f.Make(name); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s has the controllers %q, its new cgroup %q", f.Mount(), content(t, f.Mount(), "cgroup.controllers"), content(t, f.Mount(), name, "cgroup.controllers"))
	l := Limits{HugePages: map[string]int64{}}
	for _, size := range HugePageSizes() {
		l.HugePages[size] = 0
	}
	if f.Counts("memory") {
		l.Memory, l.CPUShares, l.CPUQuota, l.Pids = 64<<20, 512, 50_000, 10
	}
	if err := f.Set(name, l); err != nil {
		t.Fatal(err)
	}
	for size := range l.HugePages {
		if text, err := f.Read("", name, "hugetlb."+size+".max"); f.Counts("hugetlb") && (text != "0" || err != nil) {
			t.Errorf("huge pages of %s are limited to %q, %v", size, text, err)
		}
	}
	if f.Counts("memory") {
		if memory, quota, err := f.Limited(name); memory != l.Memory || quota != l.CPUQuota || err != nil {
			t.Errorf("limited to %d, %d, %v", memory, quota, err)
		}
	}
	if pids, err := Processes(f.Path("", name)); err != nil || len(pids) != 0 {
		t.Errorf("processes %v, %v", pids, err)
	}
}
