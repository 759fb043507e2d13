package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func files(t *testing.T, dir string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDetailV2(t *testing.T) {
	root := t.TempDir()
	files(t, filepath.Join(root, "pod"), map[string]string{
		"cpu.stat":            "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 500\n",
		"memory.stat":         "anon 100\nfile 300\nfile_mapped 7\ninactive_file 250\npgfault 11\npgmajfault 2\n",
		"memory.current":      "450\n",
		"memory.max":          "1000\n",
		"memory.swap.max":     "max\n",
		"memory.swap.current": "5\n",
		"memory.peak":         "460\n",
		"memory.events":       "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n",
		"pids.current":        "3\n",
		"io.stat":             "8:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n7:1 \n",
		"cpu.pressure":        "some avg10=1.50 avg60=0.50 avg300=0.10 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
		"memory.pressure":     "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		"io.pressure":         "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\nfull avg10=0.00 avg60=0.00 avg300=2.00 total=1\n",
	})
	got, err := V2(root).Detail("pod")
	if err != nil {
		t.Fatal(err)
	}
	want := Detail{
		Usage: Usage{CPUNanos: 3_000_000, Memory: 450, WorkingSet: 200, Pids: 3}, UserNanos: 2_000_000, SystemNanos: 1_000_000,
		Periods: 10, Throttled: 4, ThrottledNanos: 500_000, RSS: 100, Cache: 300, Mapped: 7, Swap: 5, Faults: 11, MajorFaults: 2,
		MemoryPeak: 460, MemoryFails: 9, MemoryLimit: 1000,
		Disks: []DiskIO{{Device: "8:0", ReadBytes: 4096, WriteBytes: 1, Reads: 2, Writes: 3}},
		Pressure: &Pressures{
			CPU: Pressure{Some: Stall{Avg10: 1.5, Avg60: .5, Avg300: .1, Total: 77}, Full: Stall{Total: 5}},
			IO:  Pressure{Some: Stall{Total: 3}, Full: Stall{Avg300: 2, Total: 1}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDetailV1(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{
		"cpuacct/pod/cpuacct.usage":                           "3000000\n",
		"cpuacct/pod/cpuacct.usage_user":                      "2000000\n",
		"cpuacct/pod/cpuacct.usage_sys":                       "1000000\n",
		"cpu/pod/cpu.stat":                                    "nr_periods 10\nnr_throttled 4\nthrottled_time 500000\n",
		"memory/pod/memory.stat":                              "rss 1\ntotal_cache 300\ntotal_rss 100\ntotal_mapped_file 7\ntotal_swap 5\ntotal_pgfault 11\ntotal_pgmajfault 2\ntotal_inactive_file 250\n",
		"memory/pod/memory.usage_in_bytes":                    "450\n",
		"memory/pod/memory.max_usage_in_bytes":                "460\n",
		"memory/pod/memory.failcnt":                           "9\n",
		"memory/pod/memory.limit_in_bytes":                    "9223372036854771712\n",
		"memory/pod/memory.memsw.limit_in_bytes":              "9223372036854771712\n",
		"pids/pod/pids.current":                               "3\n",
		"blkio/pod/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 1\n8:0 Total 4097\nTotal 4097\n",
		"blkio/pod/blkio.throttle.io_serviced_recursive":      "8:0 Read 2\n8:0 Write 3\nTotal 5\n",
	})
	got, err := V1(root, "cpu", "cpuacct", "memory", "pids", "blkio").Detail("pod")
	if err != nil {
		t.Fatal(err)
	}
	want := Detail{
		Usage: Usage{CPUNanos: 3_000_000, Memory: 450, WorkingSet: 200, Pids: 3}, UserNanos: 2_000_000, SystemNanos: 1_000_000,
		Periods: 10, Throttled: 4, ThrottledNanos: 500_000, RSS: 100, Cache: 300, Mapped: 7, Swap: 5, Faults: 11, MajorFaults: 2,
		MemoryPeak: 460, MemoryFails: 9, Disks: []DiskIO{{Device: "8:0", ReadBytes: 4096, WriteBytes: 1, Reads: 2, Writes: 3}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
