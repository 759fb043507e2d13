// Package disktest is a disk in memory for tests: it keeps what is on the disk apart from what was only written, so that it can lose power,
// and it is slow, hangs, fails, fills up and rots as a test asks. It waits by channels and timers only, so it lives in a
// testing/synctest bubble, and what a crash leaves depends on nothing but the seed and what was done.
package disktest

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"mgr/raftnode/disk"
)

// ErrCrashed is the error of everything that a process does after its machine has crashed or it was killed.
var ErrCrashed = errors.New("the process is dead")

// Op is what a file system is asked to do.
type Op string

// The operations that a Fault or a Latency can tell apart.
const (
	OpRead     Op = "read" // also of a directory
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpSyncDir  Op = "syncdir"
	OpResize   Op = "resize" // truncate and allocate
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	SectorSize    = 512 // what a write is torn into
)

// Disk outlives the processes that use it.
type Disk struct {
	mu       sync.Mutex
	random   *rand.Rand
	root     map[string]*inode // visible names, with slashes; directories are there too
	durable  map[string]*inode // what a crash leaves
	renames  []nameChange      // of visible names, not yet durable, in order
	life     int               // of the process; the mounts of earlier ones are dead
	locks    map[string]bool
	capacity int64
	latency  func(Op, string) time.Duration
	fault    func(Op, string) error
	resume   chan struct{} // not nil while the disk hangs
	died     chan struct{} // closed when the present life ends
	synced   int
}

// inode is a file or a directory.
type inode struct {
	dir     bool
	visible content
	durable content
	pending []change // done to visible, not yet to durable
}

// content is zero behind data, up to size.
type content struct {
	data []byte
	size int64
}

// change of a file: a write, or a new size when data is nil.
type change struct {
	at   int64
	data []byte
}

// nameChange of the tree: to gets node (nil: the name is removed), and from, if any, is removed.
type nameChange struct {
	from, to string
	node     *inode
}

// New is an empty disk of 1 TiB; the seed decides what crashes leave.
func New(seed uint64) *Disk {
	return &Disk{
		random: rand.New(rand.NewPCG(seed, 0xd15c)), root: map[string]*inode{}, durable: map[string]*inode{}, locks: map[string]bool{},
		capacity: 1 << 40, died: make(chan struct{}),
	}
}

// Mount is the file system for one life of a process. Kill and Crash end it: from then on everything it is asked for fails.
func (d *Disk) Mount() disk.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &mount{d: d, life: d.life, died: d.died}
}

// Kill ends the process as kill -9 does: what it wrote is there, whether synced or not.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kill()
}

func (d *Disk) kill() {
	d.life++
	close(d.died)
	d.died = make(chan struct{})
	clear(d.locks)
}

// Crash ends the process and takes the power: of what was not synced, whole writes and 512-byte parts of them are lost at random,
// or all, or nothing; and so are the last changes of names.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kill()
	d.commitNames(d.random.IntN(len(d.renames) + 1))
	d.renames = nil
	var names []string
	for name := range d.durable {
		names = append(names, name)
	}
	slices.Sort(names) // so that the seed alone decides
	d.root = map[string]*inode{}
	for _, name := range names {
		n := d.durable[name]
		n.lose(d.random)
		d.root[name] = n
	}
}

// lose makes what a crash leaves.
func (n *inode) lose(r *rand.Rand) {
	if len(n.pending) > 0 {
		mode := r.IntN(4)
		for _, c := range n.pending {
			switch {
			case mode == 0: // nothing got there
			case mode == 1 || r.IntN(2) == 0 && mode == 2 || c.data == nil && r.IntN(2) == 0:
				n.durable.apply(c)
			case mode == 3:
				for at, rest := c.at, c.data; len(rest) > 0; {
					part := min(len(rest), SectorSize-int(at%SectorSize))
					if r.IntN(2) == 0 {
						n.durable.apply(change{at, rest[:part]})
					}
					at, rest = at+int64(part), rest[part:]
				}
			}
		}
		n.pending = nil
	}
	n.visible = content{slices.Clone(n.durable.data), n.durable.size}
}

func (c *content) apply(h change) {
	if h.data == nil {
		c.size = h.at
		if int64(len(c.data)) > h.at {
			c.data = c.data[:h.at:h.at]
		}
		return
	}
	end := h.at + int64(len(h.data))
	if int64(len(c.data)) < end {
		if int64(cap(c.data)) < end {
			c.data = append(make([]byte, 0, max(end, 2*int64(len(c.data)))), c.data...)
		}
		old := len(c.data)
		c.data = c.data[:end]
		clear(c.data[old:])
	}
	copy(c.data[h.at:], h.data)
	c.size = max(c.size, end)
}

func (c *content) readAt(b []byte, at int64) (int, error) {
	n := int(max(0, min(int64(len(b)), c.size-at)))
	clear(b[:n])
	if at < int64(len(c.data)) {
		copy(b[:n], c.data[at:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// commitNames makes the first n changes of names durable.
func (d *Disk) commitNames(n int) {
	for _, c := range d.renames[:n] {
		move(d.durable, c)
	}
	d.renames = d.renames[n:]
}

// move carries out a change of names, with all that is below a directory.
func move(tree map[string]*inode, c nameChange) {
	if c.from != "" {
		for name, n := range tree {
			if rest, below := strings.CutPrefix(name, c.from+"/"); below {
				delete(tree, name)
				tree[c.to+"/"+rest] = n
			}
		}
		delete(tree, c.from)
	}
	if c.node == nil {
		delete(tree, c.to)
	} else {
		tree[c.to] = c.node
	}
}

func (d *Disk) change(c nameChange) {
	move(d.root, c)
	d.renames = append(d.renames, c)
}

// SetLatency makes operations take time; nil: none.
func (d *Disk) SetLatency(latency func(Op, string) time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.latency = latency
}

// SetFault makes operations fail with what fault returns, if that is not nil. The pages of a sync that fails count as clean, but are not
// on the disk: only what is written again gets there. A write that fails has written half of its bytes.
func (d *Disk) SetFault(fault func(Op, string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// SetCapacity sets the size of the disk in bytes.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// Hang makes all operations wait, or lets them go on. Those of a process that dies end then.
func (d *Disk) Hang(hang bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hang && d.resume == nil {
		d.resume = make(chan struct{})
	} else if !hang && d.resume != nil {
		close(d.resume)
		d.resume = nil
	}
}

// Syncs is how many syncs of files have succeeded.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.synced
}

// Used is how many bytes all files have together.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used()
}

func (d *Disk) used() int64 {
	var sum int64
	for _, n := range d.root {
		sum += n.visible.size
	}
	return sum
}

// Files are the names of all files, in order.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name, n := range d.root {
		if !n.dir {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Edit lets rot change what a file has, on the disk and in memory, to what edit returns.
func (d *Disk) Edit(name string, edit func([]byte) []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.root[clean(name)]
	if n == nil || n.dir {
		return &fs.PathError{Op: "edit", Path: name, Err: fs.ErrNotExist}
	}
	b := make([]byte, n.visible.size)
	_, _ = n.visible.readAt(b, 0) // of its whole size
	b = edit(b)
	n.visible = content{b, int64(len(b))}
	n.durable = content{slices.Clone(b), int64(len(b))}
	n.pending = nil
	return nil
}

// Flip changes one bit.
func (d *Disk) Flip(name string, bit int64) error {
	return d.Edit(name, func(b []byte) []byte {
		b[bit/8] ^= 1 << (bit % 8)
		return b
	})
}

// Copy is another disk with the same content, all of it durable, and no faults.
func (d *Disk) Copy(seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := New(seed)
	for name, n := range d.root {
		visible := content{slices.Clone(n.visible.data), n.visible.size}
		c.root[name] = &inode{dir: n.dir, visible: visible, durable: content{slices.Clone(visible.data), visible.size}}
		c.durable[name] = c.root[name]
	}
	return c
}

func clean(name string) string { return path.Clean("/" + name) }

// enospc says whether more bytes do not fit.
func (d *Disk) enospc(more int64) bool { return more > 0 && d.used()+more > d.capacity }
