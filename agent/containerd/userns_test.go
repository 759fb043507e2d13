package containerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"mgr/agent"
	"mgr/agent/containerd"
)

// mapped makes a pod with a user namespace of its own.
func (n *node) mapped(name string, first uint32, change ...func(*agent.SandboxSpec)) agent.PodRef {
	n.t.Helper()
	return n.pod(name, append(change, func(s *agent.SandboxSpec) { s.UserNS = &agent.IDRange{First: first, Count: 65536} })...)
}

// Root in the pod is nobody on the node; files keep their owners on the disk, whatever is mounted from where.
func TestUserNamespace(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	if !n.Handlers()[0].UserNamespaces {
		t.Fatal("this machine cannot do user namespaces: is the data directory on a file system that maps owners?")
	}
	const first = 7 << 16
	pod := n.mapped("mapped", first, func(s *agent.SandboxSpec) {
		s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
	})
	dir, file := filepath.Join(n.dir, "volume"), filepath.Join(n.dir, "hosts")
	for path, uid := range map[string]int{dir: 1000, file: 0} {
		err := os.Mkdir(dir, 0o700)
		if path == file {
			err = os.WriteFile(file, []byte("hosts\n"), 0o600)
		}
		if err == nil || os.IsExist(err) {
			err = os.Chown(path, uid, uid)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mounts := []specs.Mount{
		{Destination: "/volume", Type: "bind", Source: dir, Options: []string{"rbind", "rprivate", "rw"}},
		{Destination: "/etc/hosts", Type: "bind", Source: file, Options: []string{"rbind", "rprivate", "ro"}},
	}
	look := n.shell(pod, "root", `cat /proc/self/uid_map | tr -s ' '; id -u; hostname; stat -c %u /bin /volume /etc/hosts; cat /etc/hosts
		touch /new /dev/shm/new && echo wrote; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net; mount -t tmpfs none /mnt 2>&1 | head -1`)
	look.Mounts = mounts
	out, _ := n.output(look)
	want := fmt.Sprintf(" 0 %d 65536\n0\nmapped\n0\n1000\n0\nhosts\nwrote\n80\nlo\n", first)
	if !strings.HasPrefix(out, want) || !strings.Contains(out, "not permitted") && !strings.Contains(out, "denied") {
		t.Errorf("root sees\n%s\nwant\n%s", out, want)
	}

	uid := int64(1000)
	write := n.shell(pod, "user", "echo x >/volume/x; cat /new 2>&1; ls -n /volume; exec sleep 600")
	write.Mounts, write.User = mounts, &uid
	id := n.run(write)
	n.waitLines(write, 3)
	if info, err := os.Stat(filepath.Join(dir, "x")); err != nil || info.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("what the user wrote belongs to %+v, %v\n%s", info, err, n.logOf(write))
	}
	if info, err := os.Stat(fmt.Sprintf("/proc/%d", n.container(id).Pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid != first+1000 {
		t.Errorf("on the node the process is of user %+v, %v", info, err)
	}
	var exec strings.Builder
	if code, err := n.Exec(t.Context(), id, agent.ExecSpec{Command: []string{"id", "-u"}, Streams: agent.Streams{Stdout: &exec}}); err != nil || code != 0 || exec.String() != "1000\n" {
		t.Errorf("exec: %q, %d, %v", exec.String(), code, err)
	}
	if text, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(text), "/mapped/") {
		t.Errorf("mapped mounts are left on the node: %v", err)
	}
	if err := n.RemoveSandbox(t.Context(), pod.UID); err != nil {
		t.Error(err)
	}
}

// The process that holds a shared PID namespace is in the pod's user namespace too.
func TestUserNamespaceWithSharedPID(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.mapped("family", 9<<16, func(s *agent.SandboxSpec) { s.SharePID = true })
	out, _ := n.output(n.shell(pod, "main", `tr '\0' ' ' </proc/1/cmdline; echo; tr -s ' ' </proc/1/uid_map`))
	if out != fmt.Sprintf("/pause pause \n 0 %d 65536\n", 9<<16) {
		t.Errorf("got %q", out)
	}
}

// It lives on over a restart of the agent.
func TestUserNamespaceSurvivesRestart(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.mapped("lasting", 11<<16)
	id := n.run(n.spec(pod, "main", "/bin/sleep", "600"))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Runtime = nil
	n.open()
	n.mapped("lasting", 11<<16)
	if c := n.container(id); c.State != agent.ContainerRunning {
		t.Errorf("%+v", c)
	}
	if out, _ := n.output(n.shell(pod, "second", "tr -s ' ' </proc/self/uid_map")); out != fmt.Sprintf(" 0 %d 65536\n", 11<<16) {
		t.Errorf("a container made after the restart: %q", out)
	}
}

// Mapped mounts of an agent that died while it was making a container go when the next one begins, and nothing that they show.
func TestMappedMountsAreSwept(t *testing.T) {
	n := newNode(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Runtime = nil
	data := filepath.Join(n.dir, "precious")
	left := filepath.Join(containerd.NewLayout(n.dir).Run, "mapped", "container")
	for _, dir := range []string{data, filepath.Join(left, "0")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(data, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(data, filepath.Join(left, "0"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	n.open()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(data, "file")); err != nil || string(text) != "x" {
		t.Errorf("what it showed: %q, %v", text, err)
	}
}
