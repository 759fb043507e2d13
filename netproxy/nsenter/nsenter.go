//go:build linux

// Package nsenter runs functions in network namespaces named by a path.
//
// A network namespace belongs to a thread, and Go moves goroutines between threads; so each function runs on a goroutine
// of its own, locked to its thread. A thread that cannot return to where it came from is never given back to the
// scheduler: the goroutine ends locked and the thread dies with it.
package nsenter

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNS is the namespace of the calling thread. /proc/self would be that of the process's first thread.
const threadNS = "/proc/thread-self/ns/net"

// Do runs fn on a thread in the network namespace at path and returns fn's error. Sockets, child processes and
// /proc/sys/net accesses that fn makes itself belong to that namespace; goroutines that fn starts do not.
func Do(path string, fn func() error) error {
	target, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer target.Close()
	return onLockedThread(func() (clean bool, err error) {
		home, err := os.Open(threadNS)
		if err != nil {
			return true, fmt.Errorf("open own network namespace: %w", err)
		}
		defer home.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		err = fn()
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil, err
	})
}

// Pin makes a new network namespace that lives at path until Unpin. The directory of path must exist.
func Pin(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make mount point of network namespace: %w", err)
	}
	f.Close()
	err = onLockedThread(func() (clean bool, err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("make network namespace: %w", err)
		}
		return false, unix.Mount(threadNS, path, "none", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("pin network namespace at %s: %w", path, err)
	}
	return nil
}

// Unpin releases a namespace pinned at path. It is no error when there is none.
func Unpin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove mount point of network namespace: %w", err)
	}
	return nil
}

// onLockedThread runs fn on a locked thread, which is used again only when fn says that it is clean.
func onLockedThread(fn func() (clean bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		clean, err := fn()
		if clean {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
