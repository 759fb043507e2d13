package containerd_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mgr/agent"
)

func TestSysctls(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("sysctl", func(s *agent.SandboxSpec) {
		s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
	})
	if out, _ := n.output(n.shell(pod, "main", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced")); out != "80\n1\n" {
		t.Errorf("inside: %q", out)
	}
	for _, name := range []string{"kernel.panic", "vm.swappiness"} {
		_, err := n.EnsureSandbox(t.Context(), agent.SandboxSpec{Pod: agent.PodRef{UID: "bad"}, Sysctls: map[string]string{name: "1"}})
		if err == nil || !strings.Contains(err.Error(), "not of a namespace") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Capability masks of /proc/self/status.
const (
	capsDefault = "00000000a80425fb" // the fourteen that containerd's CRI gives
	capsNone    = "0000000000000000"
)

// What the kernel says of a container's first process, for what the specification says. containerd's CRI gives the same: the
// capabilities are the bounding set and, for root alone, the effective one; no process inherits any or has ambient ones.
func TestSecurityContext(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("security")
	id := func(v int64) *int64 { return &v }
	const look = `exec 2>&1; id -u; id -g; id -G; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr '\t\n' '  '; echo; touch /x 2>&1 && echo writable
		grep -c ' /proc/timer_list ' /proc/mounts; grep -c ' /proc/sys ' /proc/mounts; echo >/proc/sys/net/ipv4/ip_forward 2>&1 || true; ls /dev | wc -l`
	set := func(eff, bounding, seccomp string) string {
		return "CapInh: " + capsNone + " CapPrm: " + eff + " CapEff: " + eff + " CapBnd: " + bounding + " CapAmb: " + capsNone + " NoNewPrivs: " + seccomp
	}
	for name, c := range map[string]struct {
		change func(*agent.ContainerSpec)
		want   []string
		not    []string
	}{
		"default": {func(*agent.ContainerSpec) {},
			[]string{"0\n0\n0\n", set(capsDefault, capsDefault, "1 Seccomp: 2 "), "writable\n1\n1\n"}, nil},
		"user": {func(s *agent.ContainerSpec) {
			s.User, s.Group, s.SupplementalGroups = id(1000), id(2000), []int64{3000}
		}, []string{"1000\n2000\n2000 3000\n", set(capsNone, capsDefault, "1 Seccomp: 2 ")}, nil},
		"user with a capability": {func(s *agent.ContainerSpec) { s.User, s.CapAdd = id(1000), []string{"NET_ADMIN"} },
			[]string{set(capsNone, "00000000a80435fb", "1 Seccomp: 2 ")}, nil},
		"nobody": {func(s *agent.ContainerSpec) { s.User = id(65534) }, []string{"65534\n65534\n65534 100\n"}, nil},
		"strict": {func(s *agent.ContainerSpec) {
			s.User, s.OnlyTheseGroups, s.SupplementalGroups = id(65534), true, []int64{7}
		}, []string{"65534\n65534\n65534 7\n"}, nil},
		"drop":       {func(s *agent.ContainerSpec) { s.CapDrop = []string{"ALL"} }, []string{set(capsNone, capsNone, "1 ")}, nil},
		"drop, add":  {func(s *agent.ContainerSpec) { s.CapDrop, s.CapAdd = []string{"ALL"}, []string{"NET_BIND_SERVICE"} }, []string{set("0000000000000400", "0000000000000400", "1 ")}, nil},
		"read-only":  {func(s *agent.ContainerSpec) { s.ReadOnlyRoot = true }, []string{"Read-only file system"}, []string{"writable"}},
		"unconfined": {func(s *agent.ContainerSpec) { s.SeccompProfile = "unconfined"; s.NoNewPrivileges = false }, []string{"Seccomp: 0", "NoNewPrivs: 0"}, nil},
		"open /proc": {func(s *agent.ContainerSpec) { s.UnmaskedProc = true }, []string{"writable\n0\n0\n"}, nil},
		"privileged": {func(s *agent.ContainerSpec) { s.Privileged = true }, []string{"Seccomp: 0", "writable\n0\n0\n"}, []string{capsDefault}},
	} {
		spec := n.shell(pod, strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "/", ""), look)
		c.change(&spec)
		out, state := n.output(spec)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
		for _, not := range c.not {
			if strings.Contains(out, not) {
				t.Errorf("%s: %q in\n%s", name, not, out)
			}
		}
		groups := strings.Fields(strings.Split(out, "\n")[2])
		if u := state.User; u == nil || len(u.Groups) != len(groups) {
			t.Errorf("%s: the runtime says %+v, the container %v", name, state.User, groups)
		}
	}
	wrong := n.shell(pod, "wrong", "true")
	wrong.CapAdd = []string{"FLY"}
	if _, err := n.CreateContainer(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), `no capability "FLY"`) {
		t.Errorf("an unknown capability: %v", err)
	}
}

// A profile of the node is obeyed; what it lacks, and what it says wrong, names the file.
func TestSeccompOfTheNode(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("seccomp")
	write := func(name, text string) string {
		path := filepath.Join(n.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct{ text, want string }{
		"no-mkdir.json": {`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`, "not permitted"},
		"all.json":      {`{"defaultAction":"SCMP_ACT_ALLOW"}`, "made"},
	} {
		spec := n.shell(pod, strings.TrimSuffix(name, ".json"), "mkdir /x 2>&1 && echo made")
		spec.SeccompProfile = "localhost/" + write(name, c.text)
		if out, _ := n.output(spec); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q", name, out)
		}
	}
	for profile, want := range map[string]string{
		"localhost/" + filepath.Join(n.dir, "none.json"): filepath.Join(n.dir, "none.json"),
		"localhost/" + write("bad.json", "{"):            filepath.Join(n.dir, "bad.json"),
		"what":                                           "neither",
	} {
		spec := n.shell(pod, "wrong", "true")
		spec.SeccompProfile = profile
		if _, err := n.CreateContainer(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

// The user is known again after a restart of the agent.
func TestUserSurvivesRestart(t *testing.T) {
	n := newNode(t)
	spec := n.spec(n.pod("user"), "main", "/bin/sleep", "infinity")
	uid := int64(1234)
	spec.User, spec.SupplementalGroups = &uid, []int64{5}
	id := n.run(spec)
	before := n.container(id).User
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Runtime = nil
	n.open()
	after := n.container(id).User
	if before == nil || after == nil || after.UID != uid || after.GID != before.GID || !slices.Equal(after.Groups, before.Groups) {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
