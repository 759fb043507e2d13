package raftnode

import (
	"fmt"
	"testing"
	"time"
)

var patient = careRules{dead: 10 * time.Minute, replaced: 30 * time.Second}

// crew is members from letters: L leader, v voter, d voter dead for a minute, D for an hour, f voter that forgot, n non-voter that
// catches up, r one that is ready, e one dead for an hour, g one that forgot.
func crew(letters string) []memberView {
	var all []memberView
	for i, c := range letters {
		m := memberView{id: fmt.Sprintf("m%d", i+1), voter: true}
		switch c {
		case 'L':
			m.self, m.ready = true, true
		case 'v':
			m.ready = true
		case 'd':
			m.silent = time.Minute
		case 'D':
			m.silent = time.Hour
		case 'f':
			m.forgot = true
		case 'n':
			m.voter = false
		case 'r':
			m.voter, m.ready = false, true
		case 'e':
			m.voter, m.silent = false, time.Hour
		case 'g':
			m.voter, m.forgot = false, true
		default:
			panic("no such letter")
		}
		all = append(all, m)
	}
	return all
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		crew string
		kind stepKind
		id   string
	}{
		{"L", rest, ""},
		{"Lvv", rest, ""},
		{"Lr", promote, "m2"},
		{"Lvvn", rest, ""},
		{"Lg", admit, "m2"},
		{"Lvf", unvote, "m3"},
		{"Lfd", rest, ""}, // the change could not be committed
		{"LvD", rest, ""}, // never below three
		{"LvDr", promote, "m4"},
		{"LvDv", cleanup, "m3"},  // replaced
		{"Lvdv", cleanup, "m3"},  // after a minute too: three of three are better than three of four
		{"Lvvvd", rest, ""},      // a minute is not enough among five
		{"LvvvD", cleanup, "m5"}, // ten are
		{"LvvDD", cleanup, "m4"},
		{"LvDD", rest, ""}, // no majority
		{"LvvvvD", cleanup, "m6"},
		{"Lvve", cleanup, "m4"}, // a non-voter costs nothing
		{"LvDe", cleanup, "m4"},
		{"LvDf", rest, ""}, // neither change finds its majority: two are well of three
		{"LvDfv", unvote, "m4"},
	} {
		if got := decide(crew(c.crew), patient); got.kind != c.kind || got.id != c.id {
			t.Errorf("%s: %+v, want %d of %s", c.crew, got, c.kind, c.id)
		}
	}
	if got := decide(crew("LvvvD"), careRules{replaced: time.Second}); got.kind != rest {
		t.Errorf("with cleanup switched off: %+v", got)
	}
}

// TestCareCannotLoseQuorum tries every health of quorums of 1 to 7 with up to 2 non-voters, and follows the steps to the end.
func TestCareCannotLoseQuorum(t *testing.T) {
	states, steps := 0, 0
	for voters := 1; voters <= 7; voters++ {
		for others := 0; others <= 2; others++ {
			each("vdDf", voters-1, func(v string) {
				each("nreg", others, func(o string) {
					states++
					steps += follow(t, crew("L"+v+o))
				})
			})
		}
	}
	t.Logf("%d states, %d steps", states, steps)
}

func each(letters string, n int, do func(string)) {
	if n == 0 {
		do("")
		return
	}
	for _, c := range letters {
		each(letters, n-1, func(rest string) { do(string(c) + rest) })
	}
}

// count says how many vote, how many of these are well, and how many of the voters have not forgotten.
func count(members []memberView) (voters, well int) {
	for _, m := range members {
		if m.voter {
			voters++
			if m.well() {
				well++
			}
		}
	}
	return voters, well
}

// follow carries out steps until there is none, and checks each.
func follow(t *testing.T, members []memberView) (steps int) {
	for {
		voters, well := count(members)
		s := decide(members, patient)
		if s.kind == rest {
			return steps
		}
		if steps++; steps > 20 {
			t.Fatalf("no end of steps for %+v", members)
		}
		var next []memberView
		for _, m := range members {
			if m.id != s.id {
				next = append(next, m)
				continue
			}
			switch s.kind {
			case unvote:
				m.voter = false
			case admit:
				m.forgot, m.ready = false, true
			case promote:
				m.voter = true
			case cleanup:
				if m.self || m.silent == 0 {
					t.Fatalf("%+v removes one that lives from %+v", s, members)
				}
				continue
			}
			next = append(next, m)
		}
		nextVoters, nextWell := count(next)
		before, after := well-majority(voters), nextWell-majority(nextVoters)
		switch {
		case s.kind != promote && nextVoters < voters && after < 0:
			t.Fatalf("%+v of %+v cannot be committed: %d of %d are well", s, members, nextWell, nextVoters)
		case after < min(before, 0) || s.kind != promote && after < before:
			t.Fatalf("%+v of %+v: could lose %d voters before, %d after", s, members, before, after)
		case s.kind == cleanup && nextVoters < voters && nextVoters < leastVoters:
			t.Fatalf("%+v leaves %d voters of %+v", s, nextVoters, members)
		}
		members = next
	}
}
