package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// record is what is needed here of runc's state.json.
type record struct {
	ID          string            `json:"id"`
	Pid         int               `json:"init_process_pid"`
	Begun       uint64            `json:"init_process_start"` // clock ticks after boot; with it a pid is never another process's
	CgroupPaths map[string]string `json:"cgroup_paths"`
	IntelRdt    string            `json:"intel_rdt_path"`
	Rootless    bool              `json:"rootless"`
	Config      struct {
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
		Hooks map[string][]json.RawMessage `json:"Hooks"`
	} `json:"config"`
}

// plain says that runc would do nothing for this container beyond what is done here: no hooks, no resource groups, and
// a PID namespace of its own, whose processes end with the first.
func (r *record) plain(id string) bool {
	if r.ID != id || r.Pid <= 1 || r.Begun == 0 || r.Rootless || r.IntelRdt != "" || len(r.CgroupPaths) == 0 {
		return false
	}
	for _, list := range r.Config.Hooks {
		if len(list) > 0 {
			return false
		}
	}
	for _, ns := range r.Config.Namespaces {
		if ns.Type == "NEWPID" {
			return ns.Path == ""
		}
	}
	return false
}

// alive says whether the container's first process is there, which one that waits to be reaped is not.
func (r *record) alive() (bool, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(r.Pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The second field is a name in brackets that may contain anything; the state follows, and the start is the 22nd field.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return false, errors.New("/proc/PID/stat has too few fields")
	}
	begun, err := strconv.ParseUint(fields[19], 10, 64)
	return begun == r.Begun && fields[0] != "Z" && fields[0] != "X", err
}

// run does what runc would; false: nothing has been done that runc would not do again, and runc is to be asked.
func (c command) run() bool {
	dir := filepath.Join(c.root, c.id)
	text, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) && c.verb == "delete" && c.force {
		_, err := os.Lstat(dir)
		return errors.Is(err, os.ErrNotExist)
	}
	var r record
	if err != nil || json.Unmarshal(text, &r) != nil || !r.plain(c.id) {
		return false
	}
	alive, err := r.alive()
	switch {
	case err != nil:
		return false
	case c.verb == "start" && alive:
		return start(filepath.Join(dir, "exec.fifo"), &r)
	case c.verb == "kill" && alive:
		return r.kill(c.signal)
	case c.verb == "delete" && !alive:
		return r.removeCgroups() && os.RemoveAll(dir) == nil
	}
	return false
}

// start lets the prepared process go on: it waits until somebody opens the pipe for reading, says so, and executes its program. If
// it ends instead, runc finds out.
func start(fifo string, r *record) bool {
	process, err := unix.PidfdOpen(r.Pid, 0) // first: it may have ended an instant after the pipe is open
	if err != nil {
		return false
	}
	defer unix.Close(process)
	fd, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	wait := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(process), Events: unix.POLLIN}}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		_, err = unix.Poll(wait, -1)
	}
	if err != nil || wait[0].Revents&unix.POLLIN == 0 {
		return false
	}
	var word [1]byte
	if n, err := unix.Read(fd, word[:]); n != 1 || err != nil {
		return false
	}
	return os.Remove(fifo) == nil
}

// kill sends a signal to the container's first process and to no other.
func (r *record) kill(signal unix.Signal) bool {
	fd, err := unix.PidfdOpen(r.Pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if alive, err := r.alive(); err != nil || !alive {
		return false
	}
	return unix.PidfdSendSignal(fd, signal, nil, 0) == nil
}

// removeCgroups removes the container's cgroups, whose last processes may take some milliseconds more to leave.
func (r *record) removeCgroups() bool {
	for _, dir := range r.CgroupPaths {
		if !filepath.IsAbs(dir) || filepath.Base(dir) != r.ID {
			return false // not a cgroup of this container alone
		}
		for deadline := time.Now().Add(200 * time.Millisecond); ; {
			err := rmdirTree(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return false
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	return true
}

// rmdirTree removes a cgroup with those below it; its files vanish with it.
func rmdirTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return readErr
	}
	below := false
	for _, e := range entries {
		if e.IsDir() {
			below = true
			if err := rmdirTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if !below {
		return err
	}
	return unix.Rmdir(dir)
}

// deleted answers the shim's delete of a container that is gone already, as after every orderly end: with no record of runc and
// nothing mounted there is nothing to do but to say how it ended.
func (c shimDelete) deleted() bool {
	var options struct {
		Root string `json:"root"`
	}
	text, err := os.ReadFile(filepath.Join(c.bundle, "options.json"))
	if err != nil || json.Unmarshal(text, &options) != nil || options.Root == "" {
		return false
	}
	if _, err := os.Lstat(filepath.Join(options.Root, c.namespace, c.id)); !errors.Is(err, os.ErrNotExist) {
		return false
	}
	if mounted(filepath.Join(c.bundle, "rootfs")) {
		return false
	}
	var exit struct {
		Timestamp time.Time
		Pid       int
		Status    int
	}
	text, err = os.ReadFile(filepath.Join(c.bundle, "exit.json"))
	if err != nil || json.Unmarshal(text, &exit) != nil || exit.Timestamp.IsZero() {
		return false
	}
	_, err = os.Stdout.Write(deleteResponse(exit.Pid, exit.Status, exit.Timestamp))
	return err == nil
}

// mounted says whether a directory is a mount point; one that is not there is none.
func mounted(dir string) bool {
	var self, parent unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if err := unix.Statx(unix.AT_FDCWD, dir, flags, unix.STATX_MNT_ID, &self); err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), flags, unix.STATX_MNT_ID, &parent); err != nil {
		return true
	}
	return self.Mask&parent.Mask&unix.STATX_MNT_ID == 0 || self.Mnt_id != parent.Mnt_id
}
