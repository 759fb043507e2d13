package sim

import (
	"slices"
	"strings"
	"testing"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

// TestBrokenPartsAreFound breaks parts on purpose; the rules must tell within some seeds.
func TestBrokenPartsAreFound(t *testing.T) {
	const seeds = 20
	for _, tt := range []struct {
		name   string
		broken breakage
		faults []fault
		want   string // in the words of the rule
	}{
		{"reads that do not wait", staleReads, []fault{{"isolate", 1, isolate}}, "stale read"},
		{"disks that lie about syncs", lyingDisks, []fault{{"crash all", 1, crashAll}}, "lost write"},
		{"a watch that loses an event", lossyWatch, []fault{{"transfer", 1, transfer}}, "belongs"},
		{"a refused write that is made", secretWrite, []fault{{"transfer", 1, transfer}}, "was refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(seeds) {
				p := planOf(seed)
				p.broken, p.faults = tt.broken, tt.faults
				r := runSeed(t, p)
				if slices.ContainsFunc(r.broken, func(b string) bool { return strings.Contains(b, tt.want) }) {
					t.Logf("found with seed %d: %s", seed, r.broken[0])
					return
				}
			}
			t.Errorf("not found within %d seeds", seeds)
		})
	}
}

// TestOracleFindsDivergence: two state machines that were given different commands at one index.
func TestOracleFindsDivergence(t *testing.T) {
	o := newOracle()
	for _, value := range []string{"1", "2"} {
		const head = `{"metadata":{"resourceVersion":"`
		entry, err := fsm.EncodeEntry([]fsm.Command{{Ops: []fsm.Op{{
			Verb: fsm.Create, Key: fsm.Key{Resource: "configmaps", Namespace: namespace, Name: "x"}, UID: "x",
			Data: []byte(head + `"},"v":"` + value + `"}`), RevisionAt: uint32(len(head)),
		}}}})
		if err != nil {
			t.Fatal(err)
		}
		p := &raftnodetest.Peer{ID: "m" + value, FSM: fsm.New(fsm.Options{})}
		o.begin(p)
		if _, err := p.FSM.Apply(1, 1, entry); err != nil {
			t.Fatal(err)
		}
		o.observe(p)
	}
	if broken := o.take(); len(broken) != 2 {
		t.Errorf("the hash and the event differ, and it found: %q", broken)
	}
}
