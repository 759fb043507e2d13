package agent

import (
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func securityAgent(t *testing.T, change ...func(*Config)) *Agent {
	t.Helper()
	cfg := Config{Dir: "/data"}
	for _, f := range change {
		f(&cfg)
	}
	defaults(&cfg)
	rules, err := newSysctlRules(cfg.AllowedUnsafeSysctls)
	if err != nil {
		t.Fatal(err)
	}
	return &Agent{cfg: cfg, sysctls: rules}
}

func TestSecurityTranslation(t *testing.T) {
	for name, c := range map[string]struct {
		pod  *v1.PodSecurityContext
		own  *v1.SecurityContext
		want ContainerSpec
	}{
		"nothing said": {nil, nil, ContainerSpec{SeccompProfile: profileDefault}},
		"the pod's": {
			&v1.PodSecurityContext{RunAsUser: ptr.To[int64](1), RunAsGroup: ptr.To[int64](2), FSGroup: ptr.To[int64](3),
				SupplementalGroups: []int64{4}, SupplementalGroupsPolicy: ptr.To(v1.SupplementalGroupsPolicyStrict),
				SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}},
			nil,
			ContainerSpec{User: ptr.To[int64](1), Group: ptr.To[int64](2), SupplementalGroups: []int64{3, 4}, OnlyTheseGroups: true, SeccompProfile: profileUnconfined},
		},
		"the container's word counts": {
			&v1.PodSecurityContext{RunAsUser: ptr.To[int64](1), RunAsGroup: ptr.To[int64](2),
				SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}},
			&v1.SecurityContext{RunAsUser: ptr.To[int64](0), SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault},
				ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false), ProcMount: ptr.To(v1.UnmaskedProcMount),
				Capabilities: &v1.Capabilities{Add: []v1.Capability{"NET_ADMIN"}, Drop: []v1.Capability{"ALL"}}},
			ContainerSpec{User: ptr.To[int64](0), Group: ptr.To[int64](2), ReadOnlyRoot: true, NoNewPrivileges: true, UnmaskedProc: true,
				CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"}, SeccompProfile: profileDefault},
		},
		"privileged is unconfined": {
			nil,
			&v1.SecurityContext{Privileged: ptr.To(true), AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}},
			ContainerSpec{Privileged: true, SeccompProfile: profileUnconfined, AppArmorProfile: profileUnconfined},
		},
		"profiles of the node": {
			nil,
			&v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("a/b.json")},
				AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr.To("mine")}},
			ContainerSpec{SeccompProfile: "localhost//data/seccomp/a/b.json", AppArmorProfile: "localhost/mine"},
		},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: c.pod}}
		var got ContainerSpec
		if err := securityAgent(t).security(&got, pod, &v1.Container{SecurityContext: c.own}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
		}
	}
}

func TestSeccompProfiles(t *testing.T) {
	a := securityAgent(t, func(c *Config) { c.SeccompUnconfined = true; c.SeccompDir = "/profiles" })
	if got, err := a.seccompProfile(nil); err != nil || got != profileUnconfined {
		t.Errorf("with the default off: %q, %v", got, err)
	}
	for path, want := range map[string]string{
		"":                  "needs localhostProfile",
		"../../etc/passwd":  "leaves /profiles",
		"a/../../b":         "leaves /profiles",
		"/etc/profile.json": "leaves /profiles",
	} {
		_, err := a.seccompProfile(&v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &path})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestAppArmorAdmission(t *testing.T) {
	annotation := func(value string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Annotations: map[string]string{v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "main": value}}
	}
	field := func(p *v1.AppArmorProfile) *v1.PodSecurityContext { return &v1.PodSecurityContext{AppArmorProfile: p} }
	for name, c := range map[string]struct {
		meta          metav1.ObjectMeta
		pod           *v1.PodSecurityContext
		profile       string
		without, with string // words of the refusal, by whether the kernel has it
	}{
		"nothing":      {},
		"unconfined":   {pod: field(&v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}), profile: profileUnconfined},
		"default":      {pod: field(&v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}), profile: profileDefault, without: "AppArmor is not enabled on the host"},
		"local":        {meta: annotation("localhost/x"), profile: "localhost/x", without: "AppArmor is not enabled on the host"},
		"old default":  {meta: annotation("runtime/default"), profile: profileDefault, without: "AppArmor is not enabled on the host"},
		"without name": {meta: annotation("localhost/"), profile: "localhost/", without: "not enabled", with: "names no AppArmor profile"},
		"not a profile, so the pod's": {meta: annotation("what"), pod: field(&v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}),
			profile: profileUnconfined},
	} {
		pod := &v1.Pod{ObjectMeta: c.meta, Spec: v1.PodSpec{SecurityContext: c.pod, Containers: []v1.Container{{Name: "main"}}}}
		if got := appArmorName(appArmorProfile(pod, &pod.Spec.Containers[0])); got != c.profile {
			t.Errorf("%s: profile %q, want %q", name, got, c.profile)
		}
		a := securityAgent(t)
		for has, want := range map[bool]string{false: c.without, true: c.with} {
			a.appArmor = has
			v := a.admitAppArmor(pod)
			if (v != nil) != (want != "") || v != nil && (v.Reason != "AppArmor" || !strings.Contains(v.Message, want)) {
				t.Errorf("%s, in the kernel %v: %+v, want %q", name, has, v, want)
			}
		}
	}
}

func TestSysctlAdmission(t *testing.T) {
	a := securityAgent(t, func(c *Config) { c.AllowedUnsafeSysctls = []string{"kernel.msg*", "net.core.somaxconn"} })
	for name, c := range map[string]struct {
		spec v1.PodSpec
		set  string
		want string
	}{
		"safe":                  {v1.PodSpec{}, "kernel.shm_rmid_forced", ""},
		"safe, with slashes":    {v1.PodSpec{}, "net/ipv4/tcp_syncookies", ""},
		"unsafe":                {v1.PodSpec{}, "net.ipv4.ip_forward", `"net.ipv4.ip_forward" not allowlisted`},
		"the machine's":         {v1.PodSpec{}, "vm.swappiness", `"vm.swappiness" not allowlisted`},
		"allowed":               {v1.PodSpec{}, "net.core.somaxconn", ""},
		"allowed by prefix":     {v1.PodSpec{}, "kernel.msgmax", ""},
		"in the host's network": {v1.PodSpec{HostNetwork: true}, "net.core.somaxconn", `"net.core.somaxconn" not allowed with host Net enabled`},
		"in the host's IPC":     {v1.PodSpec{HostIPC: true}, "kernel.msgmax", `"kernel.msgmax" not allowed with host IPC enabled`},
		"of another namespace":  {v1.PodSpec{HostIPC: true}, "net.core.somaxconn", ""},
	} {
		c.spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: c.set, Value: "1"}}}
		v := a.sysctls.admit(&v1.Pod{Spec: c.spec})
		switch {
		case c.want == "" && v != nil:
			t.Errorf("%s: refused with %+v", name, v)
		case c.want != "" && (v == nil || v.Reason != "SysctlForbidden" || v.Message != "Pod was rejected: forbidden sysctl: "+c.want):
			t.Errorf("%s: %+v, want %q", name, v, c.want)
		}
	}
	if _, err := newSysctlRules([]string{"vm.*"}); err == nil || !strings.Contains(err.Error(), "vm.*") {
		t.Errorf("a prefix of the machine's: %v", err)
	}
}
