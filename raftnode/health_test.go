package raftnode_test

import (
	"testing"
	"time"

	"mgr/raftnode"
)

func TestMembersInWords(t *testing.T) {
	well := func(change func(*raftnode.Member)) raftnode.Member {
		m := raftnode.Member{Role: "voter", Reachable: true}
		change(&m)
		return m
	}
	for want, m := range map[string]raftnode.Member{
		"ok":                                well(func(*raftnode.Member) {}),
		"unreachable":                       well(func(m *raftnode.Member) { m.Reachable, m.LastContact = false, -1 }),
		"unreachable for 1m5s":              well(func(m *raftnode.Member) { m.Reachable, m.LastContact = false, 65*time.Second }),
		"quarantined: its state is wrong":   well(func(m *raftnode.Member) { m.Diverged = true }),
		"has no data, waits to be taken in": well(func(m *raftnode.Member) { m.Fresh, m.Gated = true, true }),
		"catching up, 7 behind":             well(func(m *raftnode.Member) { m.Role, m.Fresh, m.Admitted, m.Behind = "nonvoter", true, true, 7 }),
		"caught up, no vote yet":            well(func(m *raftnode.Member) { m.Role = "nonvoter" }),
		"does not vote yet":                 well(func(m *raftnode.Member) { m.Gated = true }),
		"disk full: refuses writes":         well(func(m *raftnode.Member) { m.Full = true }),
		"5000 behind":                       well(func(m *raftnode.Member) { m.Behind = 5000 }),
		"earlier version":                   well(func(m *raftnode.Member) { m.Older = true }),
	} {
		if got := m.State(); got != want {
			t.Errorf("%+v: %q, want %q", m, got, want)
		}
		if len(want) > 35 {
			t.Errorf("%q makes the table wider than 100 columns", want)
		}
	}
}

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		voters, healthy, others int
		says                    string
		sound                   bool
	}{
		{1, 1, 0, "1 master, 1 healthy: survives the loss of none", true},
		{2, 2, 0, "2 masters, 2 healthy: survives the loss of none; with an even number, one is of no use", true},
		{3, 3, 0, "3 masters, 3 healthy: survives the loss of 1", true},
		{3, 2, 0, "3 masters, 2 healthy: survives the loss of none", false},
		{3, 1, 0, "3 masters, 1 healthy: no quorum, 2 are needed; bring them back, or see `mgr recover`", false},
		{3, 3, 1, "3 masters, 3 healthy: survives the loss of 1; 1 more without a vote yet", false},
		{4, 4, 0, "4 masters, 4 healthy: survives the loss of 1; with an even number, one is of no use", true},
		{5, 4, 0, "5 masters, 4 healthy: survives the loss of 1", false},
		{7, 7, 0, "7 masters, 7 healthy: survives the loss of 3", true},
	} {
		var members []raftnode.Member
		for i := range c.voters {
			members = append(members, raftnode.Member{Role: "voter", Reachable: i < c.healthy})
		}
		for range c.others {
			members = append(members, raftnode.Member{Role: "nonvoter", Reachable: true})
		}
		s := raftnode.Summarize(members)
		if s.String() != c.says || s.Sound() != c.sound {
			t.Errorf("%+v: %q, %v; want %q", c, s, s.Sound(), c.says)
		}
	}
}
