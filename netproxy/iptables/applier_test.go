//go:build linux

package iptables_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mgr/cmd/local/netns"
	"mgr/netproxy/iptables"
	"mgr/netproxy/rules"
	"mgr/netproxy/services"
)

var config = rules.Config{PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}

// inHost runs fn in a fresh simulated host.
func inHost(t testing.TB, prefix string, fn func(ctx context.Context)) {
	t.Helper()
	if err := netns.DeleteAll(prefix); err != nil {
		t.Fatal(err)
	}
	n, err := netns.Open(netns.Config{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteAll(prefix); err != nil {
			t.Error(err)
		}
	})
	h, err := n.Create("h")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Do(func() error { fn(context.Background()); return nil }); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

func ports(n, endpoints int) []*services.Port {
	var ps []*services.Port
	for i := range n {
		p := &services.Port{
			Key:       services.Key{Namespace: "default", Name: fmt.Sprintf("svc-%d", i), PortName: "http", Protocol: "TCP"},
			ClusterIP: netip.AddrFrom4([4]byte{10, 43, byte(i / 250), byte(i%250 + 1)}), Port: 80,
		}
		for e := range endpoints {
			k := i*endpoints + e
			p.Cluster = append(p.Cluster, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, byte(k / 250), byte(k%250 + 1)}), 8080))
		}
		ps = append(ps, p)
	}
	return ps
}

func apply(t testing.TB, ctx context.Context, a *iptables.Applier, ps []*services.Port) {
	t.Helper()
	if err := a.Apply(ctx, rules.Compile(config, rules.Desired{Ports: ps})); err != nil {
		t.Fatal(err)
	}
}

func newApplier(t testing.TB, ctx context.Context) *iptables.Applier {
	t.Helper()
	a, err := iptables.New(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Rules that somebody removed are noticed and written again; those of others stay as they are.
func TestRepair(t *testing.T) {
	inHost(t, "npta", func(ctx context.Context) {
		run(t, "iptables -A INPUT -s 203.0.113.1 -j DROP")
		a := newApplier(t, ctx)
		apply(t, ctx, a, ports(3, 2))
		want := run(t, "iptables-save | grep -v ^#")
		for _, harm := range []string{
			"iptables -t nat -F", "iptables -t filter -F MGR-FORWARD", "iptables -t nat -D PREROUTING 1", "iptables -F FORWARD",
			"iptables -t nat -F; iptables -t nat -X", "iptables -F MGR-FIREWALL",
		} {
			if !a.Intact(ctx) {
				t.Fatalf("before %q the rules are called broken", harm)
			}
			run(t, harm)
			if a.Intact(ctx) {
				t.Errorf("%q is not noticed", harm)
			}
			apply(t, ctx, a, ports(3, 2))
			if got := run(t, "iptables-save | grep -v ^#"); got != want {
				t.Errorf("after %q and repair:\n%s\nwant\n%s", harm, got, want)
			}
		}
		if err := iptables.Cleanup(ctx); err != nil {
			t.Error(err)
		}
		if got := run(t, "iptables-save"); strings.Contains(got, "MGR") || !strings.Contains(got, "203.0.113.1") {
			t.Errorf("after cleanup:\n%s\nwant only the foreign rule", got)
		}
	})
}

// A new process takes over what an old one left, whatever that is.
func TestTakeOver(t *testing.T) {
	inHost(t, "nptb", func(ctx context.Context) {
		apply(t, ctx, newApplier(t, ctx), ports(5, 3))
		apply(t, ctx, newApplier(t, ctx), ports(2, 2))
		got := run(t, "iptables-save | grep -v ^#")
		if err := iptables.Cleanup(ctx); err != nil {
			t.Fatal(err)
		}
		apply(t, ctx, newApplier(t, ctx), ports(2, 2))
		sorted := func(s string) string { return run(t, "sort <<'END'\n"+s+"\nEND") }
		if fresh := run(t, "iptables-save | grep -v ^#"); sorted(got) != sorted(fresh) {
			t.Errorf("taken over:\n%s\nfresh:\n%s", got, fresh)
		}
	})
}

// Where others' rules are in legacy iptables ours are, too: packets pass both kinds, but a host is managed by one.
func TestLegacyHost(t *testing.T) {
	inHost(t, "nptc", func(ctx context.Context) {
		apply(t, ctx, newApplier(t, ctx), ports(1, 1)) // before: with nf_tables
		run(t, "iptables-legacy -A INPUT -s 203.0.113.1 -j DROP")
		a := newApplier(t, ctx)
		if a.Variant() != "legacy" {
			t.Fatalf("uses %s, want legacy", a.Variant())
		}
		apply(t, ctx, a, ports(3, 2))
		apply(t, ctx, a, ports(2, 2))
		if !a.Intact(ctx) {
			t.Error("the rules are called broken")
		}
		if got := run(t, "iptables-nft-save"); strings.Contains(got, "MGR") {
			t.Errorf("the other kind still has\n%s", got)
		}
		if got := run(t, "iptables-legacy-save"); !strings.Contains(got, "default/svc-1:http") || strings.Contains(got, "default/svc-2:http") {
			t.Errorf("legacy iptables has\n%s", got)
		}
		if err := iptables.Cleanup(ctx); err != nil {
			t.Error(err)
		}
		if got := run(t, "iptables-legacy-save"); strings.Contains(got, "MGR") {
			t.Errorf("after cleanup:\n%s", got)
		}
	})
}

// Prints what compiling and committing cost, in full and for one change; three endpoints for each service.
func BenchmarkServices(b *testing.B) {
	for _, n := range []int{1000, 5000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				benchmark(b, n)
			}
		})
	}
}

// cpuTime is that of this process and its children: the figure to trust on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += u.Utime.Nano() + u.Stime.Nano()
	}
	return time.Duration(sum)
}

func benchmark(b *testing.B, n int) {
	ms := func(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }
	inHost(b, "nptd", func(ctx context.Context) {
		ps := ports(n, 3)
		compiler, a := rules.NewCompiler(config), newApplier(b, ctx)
		commit := func(what string) {
			start := time.Now()
			rs := compiler.Compile(rules.Desired{Ports: ps})
			b.ReportMetric(ms(start), what+"-compile-ms")
			start, cpu := time.Now(), cpuTime(b)
			if err := a.Apply(ctx, rs); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(ms(start), what+"-commit-ms")
			b.ReportMetric(float64((cpuTime(b) - cpu).Milliseconds()), what+"-commit-cpu-ms")
		}
		commit("full")
		changed := *ps[n/2]
		changed.Cluster = changed.Cluster[1:]
		ps[n/2] = &changed
		commit("change")
		ps = append(ps, ports(n+1, 3)[n])
		commit("add")
		start := time.Now()
		if !a.Intact(ctx) {
			b.Error("the rules are called broken")
		}
		b.ReportMetric(ms(start), "check-ms")
		a = newApplier(b, ctx)
		start = time.Now()
		if err := a.Apply(ctx, compiler.Compile(rules.Desired{Ports: ps})); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(ms(start), "takeover-ms")
	})
}
