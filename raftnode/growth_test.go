package raftnode_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode/disk/disktest"
	"mgr/raftnode/raftnodetest"
)

// TestDiskStaysBounded writes 2 GiB over a state of 4 MiB, in big entries and then in many small ones: what is on the disk stays within the
// bound of the log and a small factor of the state, without anybody's doing.
func TestDiskStaysBounded(t *testing.T) {
	const (
		object  = 512 << 10
		objects = 8
		state   = object * objects
		// The log may have snapshotBytes before a snapshot and trailingBytes after it, what is written in the second until that is seen
		// and while it is written, and two files; snapshots are two, and one that is being written.
		bound = 64<<20 + 64<<20 + 64<<20 + 2*raftnodetest.FileBytes + 3*(state+1<<20) + 16<<20
	)
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		d.SetLatency(func(op disktest.Op, _ string) time.Duration {
			if op == disktest.OpSync {
				return 10 * time.Millisecond // and so at most 50 MiB a second
			}
			return 0
		})
		c := raftnodetest.NewClusterWith(t, 1, raftnodetest.Options{
			Disk: func(string) *disktest.Disk { return d }, History: fsm.Options{},
		})
		p, data := c.Leader(), strings.Repeat("x", object)
		for i := range objects {
			mustPropose(t, p, put(fsm.Create, fmt.Sprint("x", i), data))
		}
		written, most, files := 0, int64(0), 0
		look := func() {
			if used := d.Used(); used > most {
				most = used
			}
			files = max(files, len(d.Files()))
		}
		for i := 0; written < 2<<30; i++ {
			mustPropose(t, p, put(fsm.Update, fmt.Sprint("x", i%objects), data))
			written += object
			if i%10 == 0 {
				look()
			}
		}
		big := most
		d.SetLatency(nil)
		for i := range 40000 {
			mustPropose(t, p, put(fsm.Update, fmt.Sprint("x", i%objects), "small"))
			if i%1000 == 0 {
				time.Sleep(time.Second) // of the bubble: housekeeping
				look()
			}
		}
		t.Logf("%d MiB written: at most %d MiB on the disk in %d files, %d MiB in the end", written>>20, big>>20, files, d.Used()>>20)
		if most > bound {
			t.Errorf("%d MiB are on the disk, the bound is %d MiB", most>>20, bound>>20)
		}
		if end := d.Used(); end > 64<<20+64<<20+16<<20 {
			t.Errorf("%d MiB are left for a state of a few bytes", end>>20)
		}
		gauges := p.Node.Gauges()
		for _, name := range []string{"mgr_raft_log_bytes", "mgr_raft_snapshot_bytes", "mgr_raft_disk_free_bytes"} {
			if gauges[name] <= 0 {
				t.Errorf("%s is %v", name, gauges[name])
			}
		}
	})
}
