package agent

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/utils/ptr"

	"mgr/agent/devices/devicestest"
)

func failed(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed }

func (r *rig) waitEvent(pod, reason, words string) {
	r.t.Helper()
	r.until("an event "+reason+" of "+pod, func() bool {
		list, err := r.client.CoreV1().Events("default").List(r.t.Context(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(list.Items, func(e v1.Event) bool {
			return e.InvolvedObject.Name == pod && e.Reason == reason && strings.Contains(e.Message, words)
		})
	})
}

func TestRefusedIsolation(t *testing.T) {
	r := newRig(t)
	r.agent.appArmor = false
	r.create(testPod("sysctl", func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
	}))
	p := r.wait("sysctl", "sysctl is refused", failed)
	if p.Status.Reason != "SysctlForbidden" || p.Status.Message != `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted` {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
	r.waitEvent("sysctl", "SysctlForbidden", "kernel.msgmax")
	r.create(testPod("armor", func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}}
	}))
	p = r.wait("armor", "armor is refused", failed)
	if p.Status.Reason != "AppArmor" || p.Status.Message != "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host" {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
}

func TestRuntimeClassOfAPod(t *testing.T) {
	r := newRig(t)
	for name, handler := range map[string]string{"plain": "runc"} {
		_, err := r.client.NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	class := func(name string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.RuntimeClassName = &name } }
	r.create(testPod("plain", class("plain")))
	r.wait("plain", "plain is ready", ready)
	p, err := r.client.CoreV1().Pods("default").Get(t.Context(), "plain", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := r.runtime.sandboxSpec(string(p.UID)); s.Handler != "runc" {
		t.Errorf("sandbox %+v", s)
	}
	// The class goes between the API's check and the node's.
	if err := r.agent.isolate(t.Context(), testPod("late", class("none")), &SandboxSpec{Pod: PodRef{UID: "late"}}); err == nil || !strings.Contains(err.Error(), `"none"`) {
		t.Errorf("a class that is gone: %v", err)
	}
	// What runs is not disturbed by that.
	if err := r.agent.isolate(t.Context(), testPod("plain", class("none")), &SandboxSpec{Pod: PodRef{UID: string(p.UID)}}); err != nil {
		t.Errorf("a class that is gone, of a sandbox that is there: %v", err)
	}
	node, err := r.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || len(node.Status.RuntimeHandlers) != 2 || !ptr.Deref(node.Status.Features.SupplementalGroupsPolicy, false) {
		t.Errorf("node %+v, %v", node.Status, err)
	}
}

// A pod gets what the plug-in of its devices says, the node tells what there is, and a pod that cannot have it is refused.
func TestDevicesOfAPod(t *testing.T) {
	r := newRig(t)
	thing := devicestest.New(t, filepath.Join(r.dir, "device-plugins"), "a", "b")
	thing.Start("t.sock")
	has := func(capacity, allocatable int64) func() bool {
		return func() bool {
			n := r.agent.self()
			if n == nil {
				return false
			}
			c, a := n.Status.Capacity[devicestest.Resource], n.Status.Allocatable[devicestest.Resource]
			return c.Value() == capacity && a.Value() == allocatable
		}
	}
	r.until("the node tells of its devices", has(2, 2))
	wants := func(n int64) func(*v1.Pod) {
		return func(p *v1.Pod) {
			q := v1.ResourceList{devicestest.Resource: *resource.NewQuantity(n, resource.DecimalSI)}
			p.Spec.Containers[0].Resources = v1.ResourceRequirements{Limits: q, Requests: q}
			p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "OWN", Value: "yes"}}
		}
	}
	r.create(testPod("one", wants(1)))
	r.wait("one", "one is ready", ready)
	_, spec, _ := r.runtime.last("one", "main")
	if !slices.Contains(spec.Env, "THINGS=a") || !slices.Contains(spec.Env, "OWN=yes") || spec.Annotations["thing"] != "yes" ||
		!slices.Contains(spec.Devices, Device{"/dev/null", "/dev/a", "rw"}) || spec.Mounts[len(spec.Mounts)-1].Destination != "/thing" {
		t.Errorf("the container has %+v", spec)
	}
	thing.Health("a", plugin.Unhealthy)
	r.until("the node tells of the broken one", has(2, 1))
	r.wait("one", "one tells of it too", func(p *v1.Pod) bool {
		s := p.Status.ContainerStatuses[0].AllocatedResourcesStatus
		return len(s) == 1 && s[0].Name == devicestest.Resource && s[0].Resources[0].Health == v1.ResourceHealthStatusUnhealthy
	})
	r.create(testPod("two", wants(2)))
	p := r.wait("two", "two is refused", failed)
	if p.Status.Reason != "UnexpectedAdmissionError" || !strings.HasPrefix(p.Status.Message, "Pod was rejected: Allocate failed due to requested number of devices unavailable") {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
	thing.Health("a", plugin.Healthy)
	r.until("both are healthy again", has(2, 2))
	r.delete("one", 1)
	r.gone("one")
	r.delete("two", 0)
	r.gone("two")
	r.create(testPod("again", wants(2)))
	r.wait("again", "again has what one had", ready)
}
