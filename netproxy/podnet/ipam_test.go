//go:build linux

package podnet

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"mgr/agent"
)

var cidr = netip.MustParsePrefix("10.42.3.0/29") // five pods: .2 to .6

func reopen(t testing.TB, dir string) *ipam {
	t.Helper()
	m, err := openIPAM(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func pod(uid string) agent.PodNetwork { return agent.PodNetwork{UID: uid, Namespace: "ns", Name: uid} }

// Whatever is acquired and released, and wherever the process ends: no address is held twice, none outside of the range is
// given out, a pod keeps its own, and the range can be used up.
func TestAddressesAreUnique(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		m := reopen(t, dir)
		held := map[string]netip.Addr{}
		uid := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"})
		rt.Repeat(map[string]func(*rapid.T){
			"acquire": func(rt *rapid.T) {
				u := uid.Draw(rt, "pod")
				l, err := m.acquire(cidr, pod(u))
				if had, ok := held[u]; ok && (err != nil || l.Addr != had) {
					rt.Fatalf("pod %s had %s, got %s (%v)", u, had, l.Addr, err)
				}
				if err != nil && len(held) < 5 {
					rt.Fatalf("%d pods hold addresses, but: %v", len(held), err)
				}
				if err == nil {
					held[u] = l.Addr
				}
			},
			"release": func(rt *rapid.T) {
				u := uid.Draw(rt, "pod")
				if _, had, err := m.release(u); err != nil || had != held[u].IsValid() {
					rt.Fatalf("release of %s: held %t (%v), want %t", u, had, err, !had)
				}
				delete(held, u)
			},
			"restart": func(*rapid.T) { m = reopen(t, dir) },
			"": func(rt *rapid.T) {
				seen := map[netip.Addr]bool{gateway(cidr): true, cidr.Addr(): true, netip.MustParseAddr("10.42.3.7"): true}
				for _, a := range held {
					if seen[a] || !cidr.Contains(a) {
						rt.Fatalf("address %s given out twice, or not for pods: %v", a, held)
					}
					seen[a] = true
				}
				if len(m.all()) != len(held) {
					rt.Fatalf("%d leases, want %d", len(m.all()), len(held))
				}
			},
		})
	})
}

// A process may be killed between any two system calls of a write, and the power may fail after them.
func TestCrashWhileWriting(t *testing.T) {
	dir := t.TempDir()
	m := reopen(t, dir)
	kept, err := m.acquire(cidr, pod("kept"))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "kept.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"torn.json.new": string(whole[:len(whole)/2]), // killed while writing
		"full.json.new": string(whole),                // killed before the rename
		"empty.json":    "",                           // power cut after the rename
		"other.json":    string(whole),                // not its own
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m = reopen(t, dir)
	if ls := m.all(); len(ls) != 1 || ls[0].UID != "kept" || ls[0].Addr != kept.Addr {
		t.Errorf("leases after the crash: %v, want that of kept alone", ls)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("files after the crash: %v (%v), want one", files, err)
	}
}

func TestReleasedAddressIsUsedLast(t *testing.T) {
	m := reopen(t, t.TempDir())
	first, err := m.acquire(cidr, pod("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.release("a"); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"b", "c", "d", "e"} {
		l, err := m.acquire(cidr, pod(u))
		if err != nil || l.Addr == first.Addr {
			t.Fatalf("pod %s got %s (%v), which was just released", u, l.Addr, err)
		}
	}
}

func TestPodMovesToANewRange(t *testing.T) {
	m := reopen(t, t.TempDir())
	if _, err := m.acquire(cidr, pod("a")); err != nil {
		t.Fatal(err)
	}
	other := netip.MustParsePrefix("10.42.9.0/24")
	if l, err := m.acquire(other, pod("a")); err != nil || !other.Contains(l.Addr) {
		t.Errorf("pod got %v (%v), want an address of %s", l, err, other)
	}
	if _, err := m.acquire(other, pod("../../etc/passwd")); err == nil {
		t.Error("a pod UID with a path was accepted")
	}
}
