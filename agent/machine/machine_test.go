package machine

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// machineOf is a machine of files.
func machineOf(t *testing.T, files map[string]string) Machine {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Root: root}
}

func TestMachine(t *testing.T) {
	m := machineOf(t, map[string]string{
		"proc/meminfo":            "MemTotal:       1000 kB\nMemFree:         300 kB\nInactive(file):  200 kB\nAnonPages: 50 kB\nCached: 70 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
		"proc/vmstat":             "pgfault 7\npgmajfault 3\n",
		"proc/stat":               "cpu  1 2 3 1000 1000 4 5 6 0 0\ncpu0 1 2 3\nbtime 1700000000\n",
		"proc/loadavg":            "0.1 0.2 0.3 2/345 6789\n",
		"proc/sys/kernel/pid_max": "4194304\n", "proc/sys/kernel/threads-max": "1000\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":    "3\n",
		"sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
		"proc/42/net/dev": "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n" +
			"    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n",
		"proc/42/net/route": "Iface\tDestination\tGateway\neth1\t00010203\t0\neth0\t00000000\t0102\n",
	})
	memory, err := m.Memory()
	want := Memory{Total: 1000 << 10, Used: 700 << 10, WorkingSet: 500 << 10, Available: 500 << 10, RSS: 50 << 10, Cache: 70 << 10,
		SwapTotal: 10 << 10, SwapFree: 4 << 10, Faults: 7, MajorFaults: 3}
	if err != nil || memory != want {
		t.Errorf("memory: %+v, %v", memory, err)
	}
	if cpu, err := m.CPUNanos(); err != nil || cpu != 21*uint64(10*time.Millisecond) {
		t.Errorf("processors: %d, %v", cpu, err)
	}
	if at := m.Started(); at.Unix() != 1700000000 {
		t.Errorf("started: %s", at)
	}
	if now, most, err := m.Tasks(); err != nil || now != 345 || most != 1000 {
		t.Errorf("tasks: %d of %d, %v", now, most, err)
	}
	if pages := m.HugePages(); !reflect.DeepEqual(pages, map[int64]int64{2 << 20: 6 << 20, 1 << 30: 0}) {
		t.Errorf("huge pages: %v", pages)
	}
	nets, err := m.Interfaces("42")
	if err != nil || len(nets) != 1 || nets[0] != (Interface{"eth0", 100, 3, 2, 4, 200, 6, 5, 7}) {
		t.Errorf("networks: %+v, %v", nets, err)
	}
	if up := m.Uplink("42"); up != "eth0" {
		t.Errorf("uplink: %s", up)
	}
}

// A machine that tells nothing is an error with the file's name, or an empty answer; never a wrong number.
func TestMachineWithoutFiles(t *testing.T) {
	m := machineOf(t, map[string]string{"proc/stat": "intr 1\n", "proc/loadavg": "\n"})
	if _, err := m.Memory(); err == nil {
		t.Error("memory")
	}
	if _, err := m.CPUNanos(); err == nil {
		t.Error("processors")
	}
	if _, _, err := m.Tasks(); err == nil {
		t.Error("tasks")
	}
	if len(m.HugePages()) != 0 || m.Uplink("1") != "" || !m.Started().IsZero() || m.Device("8:0") != "8:0" {
		t.Error("something of nothing")
	}
}

func TestDiskUse(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	big := write("a/big", 1<<20)
	before, err := DiskUse(dir)
	if err != nil || before.Bytes < 1<<20 || before.Inodes != 3 {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := os.Link(big, filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "everything")); err != nil {
		t.Fatal(err)
	}
	after, err := DiskUse(dir)
	if err != nil || after.Bytes > before.Bytes+8192 || after.Inodes != before.Inodes+1 {
		t.Errorf("a second name and a link: %+v, before %+v, %v", after, before, err)
	}
	if file, err := DiskUse(big); err != nil || file.Bytes < 1<<20 || file.Inodes != 1 {
		t.Errorf("one file: %+v, %v", file, err)
	}
	if none, err := DiskUse(filepath.Join(dir, "none")); err != nil || none != (Use{}) {
		t.Errorf("nothing: %+v, %v", none, err)
	}
}
