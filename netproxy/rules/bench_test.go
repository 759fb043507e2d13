package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"mgr/netproxy/rules"
	"mgr/netproxy/services"
)

// One changed service among many: what the node pays before iptables is called.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var ps []*services.Port
			for i := range n {
				p := &services.Port{Key: services.Key{Namespace: "default", Name: fmt.Sprintf("svc-%d", i), PortName: "http", Protocol: "TCP"},
					ClusterIP: netip.AddrFrom4([4]byte{10, 43, byte(i / 250), byte(i%250 + 1)}), Port: 80}
				for e := range 3 {
					p.Cluster = append(p.Cluster, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, byte((i*3 + e) / 250), byte((i*3+e)%250 + 1)}), 8080))
				}
				ps = append(ps, p)
			}
			c := rules.NewCompiler(config)
			was := c.Compile(rules.Desired{Ports: ps})
			for b.Loop() {
				changed := *ps[n/2]
				changed.Cluster = slices.Clone(changed.Cluster)
				changed.Cluster[0] = netip.AddrPortFrom(changed.Cluster[0].Addr(), changed.Cluster[0].Port()+1)
				ps[n/2] = &changed
				next := c.Compile(rules.Desired{Ports: ps})
				if len(rules.Diff(was, next, 1000)) != 1 {
					b.Fatal("want one transaction")
				}
				was = next
			}
		})
	}
}
