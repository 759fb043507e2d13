//go:build linux

package netproxy_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// cleanup leaves of a node what a host without pods has.
func (c *cluster) cleanup(t *testing.T) {
	for _, n := range c.nodes {
		n.end(request{Cleanup: true})
		for _, show := range []string{"ip -br link", "ip -br addr", "ip route", "iptables-save", "ip neigh"} {
			cmd := exec.Command("sh", "-c", show)
			var out strings.Builder
			cmd.Stdout = &out
			must(t, n.host.Start(cmd))
			must(t, cmd.Wait())
			for _, trace := range []string{"mgr", "MGR", "veth", "10.42.", "10.43."} {
				if strings.Contains(out.String(), trace) {
					t.Errorf("after cleanup of %s, %s still shows %q:\n%s", n.cfg.Name, show, trace, out.String())
				}
			}
		}
		left, err := os.ReadDir(n.cfg.Dir)
		if err != nil || len(left) > 0 {
			t.Errorf("state directory of %s: %v (%v), want it empty", n.cfg.Name, left, err)
		}
	}
}
