//go:build linux

package netproxy_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"mgr/netproxy"
)

// Prints how long it takes from a changed EndpointSlice to the first packet at the new endpoint, beside many services.
func BenchmarkEndpointChange(b *testing.B) {
	for _, n := range []int{0, 2000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			w := newWorld(b, "npl", "n1")
			for i := range n {
				name := fmt.Sprintf("s%d", i)
				other := &pod{node: w.nodes[0], addr: podCIDR.Addr().Next()}
				w.apply(service(name, fmt.Sprintf("10.43.%d.%d", 20+i/250, i%250+1), nil), endpoints(name, []*pod{other}))
			}
			w.start(func(c *nodeConfig) { c.Mode = netproxy.ModeIPTables })
			pods := []*pod{w.nodes[0].pod("a"), w.nodes[0].pod("b")}
			for _, p := range pods {
				w.serve(p.place(), p.addr, 8080, p.spec.Name)
			}
			client := w.nodes[0].pod("c").place()
			w.apply(service("web", "10.43.7.1", nil), endpoints("web", pods[:1]))
			w.reaches(client, "tcp", "10.43.7.1:80", "a")
			var took []time.Duration
			for i := range 40 {
				next := pods[(i+1)%2]
				start := time.Now()
				w.apply(endpoints("web", []*pod{next}))
				w.eventually("the new endpoint", func() error {
					name, _, err := ask(client, "tcp", "10.43.7.1:80")
					if err == nil && name != next.spec.Name {
						err = fmt.Errorf("still %s", name)
					}
					return err
				})
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
