package disktest

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mgr/raftnode/disk"
)

func create(t *testing.T, m disk.FS, name string) disk.File {
	t.Helper()
	f, err := m.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, f disk.File, content string, at int64) {
	t.Helper()
	if _, err := f.WriteAt([]byte(content), at); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrash: what was synced is there, and of the rest each seed leaves something else, the same each time.
func TestCrash(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(60) {
		var left [2]string
		for i := range left {
			d := New(seed)
			m := d.Mount()
			f := create(t, m, "/a")
			write(t, f, "synced", 0)
			must(t, f.Sync())
			must(t, m.SyncDir("/"))
			write(t, f, "SYNCED", 0)
			write(t, f, string(bytes.Repeat([]byte("x"), 3*SectorSize)), 6)
			create(t, m, "/b")
			d.Crash()
			if _, err := f.Size(); !errors.Is(err, ErrCrashed) {
				t.Fatalf("a file of the dead process: %v", err)
			}
			b, err := disk.ReadFile(d.Mount(), "/a")
			must(t, err)
			if len(b) < 6 || !bytes.EqualFold(b[:6], []byte("synced")) {
				t.Fatalf("seed %d: synced content is %q", seed, b)
			}
			_, err = d.Mount().Open("/b")
			left[i] = string(b) + map[bool]string{true: "+b"}[err == nil]
		}
		if left[0] != left[1] {
			t.Errorf("seed %d leaves one thing, then another", seed)
		}
		outcomes[left[0]]++
	}
	if len(outcomes) < 8 || outcomes["synced"] == 0 {
		t.Errorf("only %d outcomes: %v", len(outcomes), outcomes)
	}
}

// TestKillKeepsWhatWasWritten: the page cache outlives a process, its locks do not.
func TestKillKeepsWhatWasWritten(t *testing.T) {
	d := New(1)
	m := d.Mount()
	write(t, create(t, m, "/a"), "written", 0)
	if _, err := m.Lock("/lock"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Mount().Lock("/lock"); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	d.Kill()
	if b, err := disk.ReadFile(d.Mount(), "/a"); err != nil || string(b) != "written" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := d.Mount().Lock("/lock"); err != nil {
		t.Errorf("lock after the kill: %v", err)
	}
}

// TestFailedSync: the pages of a sync that failed look clean, and the next sync does not write them.
func TestFailedSync(t *testing.T) {
	d := New(1)
	m := d.Mount()
	f := create(t, m, "/a")
	must(t, m.SyncDir("/"))
	write(t, f, "lost", 0)
	d.SetFault(func(op Op, _ string) error { return map[Op]error{OpSync: syscall.EIO}[op] })
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.SetFault(nil)
	must(t, f.Sync())
	if b, _ := disk.ReadFile(m, "/a"); string(b) != "lost" {
		t.Errorf("the cache has %q", b)
	}
	write(t, f, "kept", 4)
	must(t, f.Sync())
	d.Crash()
	if b, _ := disk.ReadFile(d.Mount(), "/a"); string(b) != "\x00\x00\x00\x00kept" {
		t.Errorf("the disk has %q", b)
	}
}

// TestFull: what does not fit is refused, and what was removed makes space.
func TestFull(t *testing.T) {
	d := New(1)
	d.SetCapacity(100)
	m := d.Mount()
	f := create(t, m, "/a")
	must(t, f.Allocate(90))
	if n, err := f.WriteAt(make([]byte, 30), 80); !errors.Is(err, syscall.ENOSPC) || n != 10 {
		t.Errorf("%d bytes of 30 were written, 10 have space: %v", n, err)
	}
	if free, size, err := m.Space("/"); free != 10 || size != 100 || err != nil {
		t.Errorf("%d of %d bytes are free (%v)", free, size, err)
	}
	must(t, m.Remove("/a"))
	must(t, create(t, m, "/b").Allocate(100))
}

// TestHang: operations wait for the disk, or end with their process.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(1)
		f := create(t, d.Mount(), "/a")
		d.Hang(true)
		done := make(chan error)
		go func() { done <- f.Sync() }()
		time.Sleep(time.Hour)
		d.Hang(false)
		must(t, <-done)
		d.Hang(true)
		go func() { done <- f.Sync() }()
		time.Sleep(time.Hour)
		d.Kill()
		if err := <-done; !errors.Is(err, ErrCrashed) {
			t.Errorf("sync of a dead process: %v", err)
		}
	})
}

// TestNames: directories move with what is below them, and names get to the disk in their order.
func TestNames(t *testing.T) {
	d := New(3)
	m := d.Mount()
	must(t, m.MkdirAll("/x/y.tmp"))
	must(t, create(t, m, "/x/y.tmp/a").Sync())
	must(t, m.Rename("/x/y.tmp", "/x/y"))
	must(t, m.SyncDir("/x"))
	must(t, m.Remove("/x/y/a"))
	d.renames = d.renames[:0] // that change is lost
	d.Crash()
	m = d.Mount()
	if names, err := m.List("/x"); err != nil || len(names) != 1 || names[0] != "y/" {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := m.Open("/x/y/a"); err != nil {
		t.Error(err)
	}
	if err := m.Remove("/x/y"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("remove a directory that is not empty: %v", err)
	}
	must(t, disk.RemoveAll(m, "/x"))
	if _, err := m.List("/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list what was removed: %v", err)
	}
}
