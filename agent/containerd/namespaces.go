package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"mgr/agent"
)

// pinNamespaces makes new namespaces of the given kinds (file name → clone flag) and keeps each alive by a bind mount on
// dir/name. The host name is set if there is a UTS namespace among them, sysctls are written inside them.
func pinNamespaces(dir string, pins map[string]int, spec agent.SandboxSpec) error {
	if spec.UserNS != nil {
		return pinMapped(dir, pins, spec)
	}
	done := make(chan error, 1)
	onThrowawayThread(func() { done <- pinHere(dir, pins, spec) })
	return <-done
}

// onThrowawayThread runs fn on an operating system thread that no other goroutine will ever run on. Go ends a thread whose
// goroutine returns locked; only the main thread cannot end, so that one is never used: /proc/self is its view.
func onThrowawayThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		inner := make(chan struct{})
		onThrowawayThread(func() { defer close(inner); fn() })
		<-inner // holding the main thread, so that the other goroutine cannot get it
		runtime.UnlockOSThread()
	}()
}

func pinHere(dir string, pins map[string]int, spec agent.SandboxSpec) error {
	flags := 0
	for _, flag := range pins {
		flags |= flag
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	for name := range pins {
		if err := pin("/proc/thread-self/ns/"+name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return furnish(pins, spec)
}

// furnish sets what belongs to the namespaces of the calling thread, which is good for nothing else afterwards.
func furnish(pins map[string]int, spec agent.SandboxSpec) error {
	if _, ok := pins["uts"]; ok && spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("set the host name %q: %w", spec.Hostname, err)
		}
	}
	if ids := spec.UserNS; ids != nil && len(spec.Sysctls) > 0 {
		// The kernel asks for root of the namespaces' owner. The call is the thread's alone, unlike that of the library.
		if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(ids.First), ^uintptr(0)); err != 0 {
			return fmt.Errorf("become root of the pod's user namespace: %w", err)
		}
	}
	for name, value := range spec.Sysctls {
		if err := setSysctl(name, value, pins); err != nil {
			return err
		}
	}
	return nil
}

func pin(ns, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o400)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = unix.Mount(ns, path, "", unix.MS_BIND, "")
	}
	if err == nil {
		err = unix.Mount("", path, "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("pin %s on %s: %w", ns, path, err)
	}
	return nil
}

// setSysctl writes one kernel parameter of the calling thread's namespaces; one that belongs to no namespace of the pod would
// change the whole machine and is refused.
func setSysctl(name, value string, pins map[string]int) error {
	path := strings.ReplaceAll(name, ".", "/")
	_, ownNet := pins["net"]
	_, ownIPC := pins["ipc"]
	ipc := strings.HasPrefix(path, "kernel/shm") || strings.HasPrefix(path, "kernel/msg") || path == "kernel/sem" ||
		strings.HasPrefix(path, "fs/mqueue/")
	if !(ownNet && strings.HasPrefix(path, "net/")) && !(ownIPC && ipc) || strings.Contains(path, "..") {
		return fmt.Errorf("sysctl %q is not of a namespace that the pod has of its own", name)
	}
	err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("this kernel has no sysctl %q", name)
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
	}
	return nil
}
