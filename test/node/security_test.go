package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/devices/devicestest"
	"mgr/test/cluster"
)

// A pod that says nothing is filtered; what it says is what its processes are, and what its status tells.
func TestSecurityContextOfAPod(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	const look = "id -u; id -g; id -G; grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status | tr '\\n\\t' '  '; echo; touch /x; ls -dn /data; exec sleep 3600"
	s.Run(cluster.Busybox("plain", look))
	if out := s.Logs("plain", "main"); !strings.Contains(out, "CapEff: 00000000a80425fb NoNewPrivs: 0 Seccomp: 2 ") {
		t.Errorf("a pod that says nothing:\n%s", out)
	}
	said := cluster.Busybox("said", look)
	said.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](65534), RunAsNonRoot: ptr.To(true), FSGroup: ptr.To[int64](4000),
		SupplementalGroups: []int64{3000}, SupplementalGroupsPolicy: ptr.To(corev1.SupplementalGroupsPolicyStrict)}
	c := &said.Spec.Containers[0]
	c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false), RunAsGroup: ptr.To[int64](2000)}
	said.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p := s.Run(said)
	out := s.Logs("said", "main")
	for _, want := range []string{"65534\n2000\n2000 3000 4000\n", "CapEff: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 ", "Read-only file system", " 0        4000 "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	u := cluster.StatusOf(p, "main").User
	if u == nil || u.Linux == nil || u.Linux.UID != 65534 || u.Linux.GID != 2000 || !slices.Equal(u.Linux.SupplementalGroups, []int64{2000, 4000, 3000}) {
		t.Errorf("status.user: %+v", u)
	}
}

// What cannot be had is said with Kubernetes' reasons.
func TestRefusedSecurity(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	waits := func(reason string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			w := cluster.StatusOf(p, "main").State.Waiting
			return w != nil && w.Reason == reason
		}
	}
	root := cluster.Busybox("root", "true")
	root.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}
	s.Create(root)
	p := s.Await("root", "is refused", waits("CreateContainerConfigError"))
	if m := cluster.StatusOf(p, "main").State.Waiting.Message; !strings.HasPrefix(m, "container has runAsNonRoot and image will run as root (pod: ") {
		t.Errorf("%s", m)
	}
	profile := cluster.Busybox("profile", "true")
	profile.Spec.SecurityContext = &corev1.PodSecurityContext{
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("no/such.json")}}
	s.Create(profile)
	p = s.Await("profile", "is refused", waits("CreateContainerError"))
	if m := cluster.StatusOf(p, "main").State.Waiting.Message; !strings.Contains(m, shared.Node(p.Spec.NodeName).Layout.Dir+"/seccomp/no/such.json") {
		t.Errorf("%s", m)
	}
	refused := func(name, reason, words string, change func(*corev1.PodSpec)) {
		p := cluster.Busybox(name, "true")
		change(&p.Spec)
		s.Create(p)
		p = s.Await(name, "is refused", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		if p.Status.Reason != reason || !strings.Contains(p.Status.Message, words) {
			t.Errorf("%s: %s: %s", name, p.Status.Reason, p.Status.Message)
		}
		s.AwaitEvent(name, reason, words)
	}
	refused("sysctl", "SysctlForbidden", `"kernel.msgmax" not allowlisted`, func(s *corev1.PodSpec) {
		s.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "65536"}}}
	})
	if _, err := os.Stat("/sys/module/apparmor"); err != nil {
		refused("armor", "AppArmor", "Cannot enforce AppArmor", func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
		})
	}
	classes := s.Kube.NodeV1().RuntimeClasses()
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: s.Namespace}, Handler: "unknown"}
	if _, err := classes.Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = classes.Delete(context.WithoutCancel(t.Context()), class.Name, metav1.DeleteOptions{}) })
	strange := cluster.Busybox("strange", "true")
	strange.Spec.RuntimeClassName = &class.Name
	s.Create(strange)
	s.AwaitEvent("strange", "FailedCreatePodSandBox", `no runtime for "unknown" is configured`)
}

// whichNamespaces lists those of the process that reads, by kind.
const whichNamespaces = "for k in net ipc pid uts user; do readlink -f /proc/self/ns/$k >/dev/null; ls -l /proc/self/ns/$k | sed 's/.*-> //'; done; exec sleep 3600"

// A pod in the node's namespaces is in those, and only in those that it named.
func TestHostNamespaces(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	ours := func(kind string) string {
		name, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, change := range map[string]func(*corev1.PodSpec){
		"none": func(*corev1.PodSpec) {},
		"pid":  func(s *corev1.PodSpec) { s.HostPID = true },
		"ipc":  func(s *corev1.PodSpec) { s.HostIPC = true },
	} {
		p := cluster.Busybox(name, whichNamespaces)
		change(&p.Spec)
		s.Run(p)
		out := s.Logs(name, "main")
		for _, kind := range []string{"net", "ipc", "pid"} {
			if strings.Contains(out, ours(kind)) != (kind == name) {
				t.Errorf("with the node's %s: is it in %s %s?\n%s", name, kind, ours(kind), out)
			}
		}
	}
	p := cluster.Busybox("sysctl", "cat /proc/sys/net/ipv4/tcp_syncookies /proc/sys/kernel/shm_rmid_forced; exec sleep 3600")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.tcp_syncookies", Value: "0"}, {Name: "kernel.shm_rmid_forced", Value: "1"}}}
	s.Run(p)
	if out := s.Logs("sysctl", "main"); out != "0\n1\n" {
		t.Errorf("sysctls: %q", out)
	}
}

// Root of a pod with users of its own is nobody on the node, and its volumes are as they would be without.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"key": "value"}}
	if _, err := s.Kube.CoreV1().ConfigMaps(s.Namespace).Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	script := `id -u; tr -s ' ' </proc/self/uid_map; cat /config/key; echo; cat /token/token | wc -c | tr -d ' '; touch /disk/x /memory/x && stat -c %u:%g /disk /disk/x /memory/x
		echo bye >/dev/termination-log; hostname -i; grep -c ' /proc/sys ' /proc/mounts; exec sleep 3600`
	p := cluster.Busybox("own", script)
	p.Spec.HostUsers = ptr.To(false)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](500)}
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ProcMount: ptr.To(corev1.UnmaskedProcMount)}
	add := func(name string, v corev1.VolumeSource) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: v})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	add("disk", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	add("memory", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
	add("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}})
	add("token", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}})
	p = s.Run(p)
	lines := strings.Split(s.Logs("own", "main"), "\n")
	if len(lines) != 10 || lines[0] != "0" || lines[2] != "value" || len(lines[3]) < 3 || lines[4] != "0:500" || lines[5] != "0:500" ||
		lines[6] != "0:500" || lines[7] != p.Status.PodIP || lines[8] != "0" {
		t.Errorf("inside:\n%s", strings.Join(lines, "\n"))
	}
	var inside, first, count uint32
	if _, err := fmt.Sscan(lines[1], &inside, &first, &count); err != nil || inside != 0 || first < 65536 || count != 65536 {
		t.Errorf("its users: %q, %v", lines[1], err)
	}
	for _, pid := range cluster.PodProcesses(string(p.UID)) {
		if info, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil && info.Sys().(*syscall.Stat_t).Uid < first {
			t.Errorf("process %d is of user %d", pid, info.Sys().(*syscall.Stat_t).Uid)
		}
	}
	if out := s.Exec("own", "main", "id", "-u"); out.Stdout != "0\n" {
		t.Errorf("exec: %+v", out)
	}
	n, err := s.Kube.CoreV1().Nodes().Get(t.Context(), p.Spec.NodeName, metav1.GetOptions{})
	if err != nil || len(n.Status.RuntimeHandlers) < 2 || !ptr.Deref(n.Status.RuntimeHandlers[0].Features.UserNamespaces, false) {
		t.Errorf("the node's handlers: %+v, %v", n.Status.RuntimeHandlers, err)
	}
	s.Delete("own", 1)
}

// A plug-in's devices are counted by node and scheduler, and are in the container.
func TestDevices(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	node := shared.Node("node-1")
	devicestest.New(t, filepath.Join(node.Layout.Dir, "device-plugins"), "a", "b").Start("t.sock")
	p := cluster.Busybox("one", "echo $THINGS; ls -l /dev/a /dev/b 2>/dev/null | wc -l; exec sleep 3600")
	q := corev1.ResourceList{devicestest.Resource: resource.MustParse("1")}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: q}
	if p = s.Run(p); p.Spec.NodeName != "node-1" {
		t.Errorf("it runs on %s", p.Spec.NodeName)
	}
	if out := s.Logs("one", "main"); out != "a\n1\n" {
		t.Errorf("inside: %q", out)
	}
	if st := cluster.StatusOf(p, "main").AllocatedResourcesStatus; len(st) != 1 || st[0].Resources[0].ResourceID != "a" {
		t.Errorf("status %+v", st)
	}
	many := cluster.Busybox("many", "true")
	many.Spec.Containers[0].Resources.Limits = corev1.ResourceList{devicestest.Resource: resource.MustParse("2")}
	s.Create(many)
	s.AwaitEvent("many", "FailedScheduling", "Insufficient "+devicestest.Resource)
}

// A node listens on nothing that Kubernetes' nodes are attacked through, and keeps what it has to itself.
func TestNodeKeepsToItself(t *testing.T) {
	t.Parallel()
	node := shared.Node("node-1")
	out := node.InNet(t.Context(), "ss", "-Hltn")
	for line := range strings.Lines(out.Stdout) {
		fields := strings.Fields(line)
		if len(fields) > 3 && (strings.HasSuffix(fields[3], ":10250") || strings.HasSuffix(fields[3], ":10255") || strings.HasSuffix(fields[3], ":10248")) {
			t.Errorf("it listens on %s", fields[3])
		}
	}
	if out.Code != 0 {
		t.Errorf("ss: %+v", out)
	}
	for _, dir := range []string{node.Layout.Dir, node.Layout.Run} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if most := map[string]os.FileMode{node.Layout.Dir: 0o700, node.Layout.Run: 0o711}[dir]; info.Mode().Perm()&^most != 0 {
			t.Errorf("%s may be used by others: %s", dir, info.Mode())
		}
	}
}
