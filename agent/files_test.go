package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func plainAgent() *Agent {
	return &Agent{cfg: Config{NodeName: "n1", ClusterDomain: "cluster.local", ClusterDNS: netip.MustParseAddr("10.43.0.10"), CgroupRoot: "kubepods"}}
}

func TestResolver(t *testing.T) {
	host := resolver{servers: []string{"192.0.2.1"}, searches: []string{"corp.example"}, options: []string{"timeout:2"}}
	for _, c := range []struct {
		name string
		spec v1.PodSpec
		want string
	}{
		{"cluster first", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst}, "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.43.0.10\noptions ndots:5\n"},
		{"host network", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true}, "search corp.example\nnameserver 192.0.2.1\noptions timeout:2\n"},
		{"host network, cluster first", v1.PodSpec{DNSPolicy: v1.DNSClusterFirstWithHostNet, HostNetwork: true}, "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.43.0.10\noptions ndots:5\n"},
		{"none, with its own", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a.b"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}, {Name: "edns0"}}}}, "search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n"},
		{"default, merged", v1.PodSpec{DNSPolicy: v1.DNSDefault, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "192.0.2.1"}, Options: []v1.PodDNSConfigOption{{Name: "timeout", Value: ptr.To("5")}}}}, "search corp.example\nnameserver 192.0.2.1\nnameserver 1.1.1.1\noptions timeout:5\n"},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: c.spec}
		if got := plainAgent().resolver(pod, host).String(); got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.name, got, c.want)
		}
	}
}

func TestHostsFile(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"}, Spec: v1.PodSpec{Hostname: "h", Subdomain: "sub",
		HostAliases: []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}}}
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n10.42.0.7\th.sub.ns.svc.cluster.local\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
	if got := plainAgent().hostsFile(pod, []netip.Addr{netip.MustParseAddr("10.42.0.7")}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHostname(t *testing.T) {
	for want, spec := range map[string]v1.PodSpec{
		"web": {}, "h": {Hostname: "h"}, "n1": {HostNetwork: true}, "other": {HostnameOverride: ptr.To("other")},
		"web.sub.ns.svc.cluster.local": {Subdomain: "sub", SetHostnameAsFQDN: ptr.To(true)},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"}, Spec: spec}
		if got := plainAgent().hostname(pod); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestResolverThatDoesNotFit(t *testing.T) {
	var many, wide []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("d%d", i))
		wide = append(wide, strings.Repeat("x", 200)+fmt.Sprint(i))
	}
	for _, c := range []struct {
		in                       resolver
		servers, searches, notes int
	}{
		{resolver{servers: []string{"a", "b", "c"}, searches: many[:32]}, 3, 32, 0},
		{resolver{servers: []string{"a", "b", "c", "d"}}, 3, 0, 1},
		{resolver{searches: many}, 0, 32, 1},
		{resolver{searches: []string{"a", strings.Repeat("x", 254), "b"}}, 0, 2, 1},
		{resolver{searches: wide[:11]}, 0, 10, 1},
	} {
		got, notes := c.in.fitted()
		if len(got.servers) != c.servers || len(got.searches) != c.searches || len(notes) != c.notes {
			t.Errorf("%v: %v, %q", c.in, got, notes)
		}
	}
}

func TestHostnameThatIsTooLong(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("w", 40), Namespace: "ns"}, Spec: v1.PodSpec{Subdomain: "sub", SetHostnameAsFQDN: ptr.To(true)}}
	if err := plainAgent().checkHostname(pod); err == nil || !strings.Contains(err.Error(), "is too long (64 characters is the max, ") {
		t.Errorf("got %v", err)
	}
	pod.Name = "web"
	if err := plainAgent().checkHostname(pod); err != nil {
		t.Error(err)
	}
}
