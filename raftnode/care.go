package raftnode

import (
	"cmp"
	"slices"
	"time"
)

// The care of the membership is one pure function, from what the leader sees to the next thing to do. It is done when nothing
// else is under way (raft changes the configuration one entry at a time), and then everything is looked at anew.

// memberView is one member as the leader sees it.
type memberView struct {
	id     string
	voter  bool
	self   bool          // the leader
	silent time.Duration // how long the leader has asked it in vain; 0: it answers
	forgot bool          // it has started with nothing, and is not admitted
	ready  bool          // it has all but the latest of the log, and nothing speaks against its vote
}

// well says whether the member can be counted on for a majority.
func (m memberView) well() bool { return m.self || m.silent == 0 && !m.forgot }

// careRules are the patience with members that do not answer; 0 of dead: for ever.
type careRules struct {
	dead     time.Duration // then a member is removed, if three voters stay
	replaced time.Duration // then a voter is removed whose going makes the quorum stronger at once: see decide
}

// leastVoters is how small a cleanup may make the quorum: with two voters, none may fail.
const leastVoters = 3

type stepKind int

const (
	rest    stepKind = iota
	unvote           // a voter that forgot its votes becomes a non-voter
	admit            // a non-voter that forgot its votes may take the log
	promote          // a non-voter becomes a voter
	cleanup          // a dead member is removed; it may join again by itself
)

// step is the next thing to do, to whom, and why, for the log.
type step struct {
	kind stepKind
	id   string
	why  string
}

func majority(voters int) int { return voters/2 + 1 }

// decide never takes a vote away unless a majority is well without it, so the change can be committed, and the quorum can lose at
// least as many of its voters afterwards as before.
//
// The dead are removed after rules.dead, while at least three voters stay. From an even number of voters a dead one is removed after
// rules.replaced, because the majority becomes smaller by it: of four voters three are needed, of three two. That is how a
// master that was replaced goes: the new one makes the number even.
func decide(members []memberView, rules careRules) step {
	voters, well := 0, 0
	for _, m := range members {
		if m.voter {
			voters++
		}
		if m.voter && m.well() {
			well++
		}
	}
	canLose := well >= majority(voters) // one that is not well; then a majority of the others is
	for _, m := range members {
		switch {
		case m.self || m.silent != 0:
		case m.voter && m.forgot && canLose:
			return step{unvote, m.id, "it has lost its data, and with them what it voted"}
		case !m.voter && m.forgot:
			return step{admit, m.id, "it starts with no data"}
		case !m.voter && m.ready:
			return step{promote, m.id, "it has caught up"}
		}
	}
	if rules.dead <= 0 {
		return step{}
	}
	byAge := slices.Clone(members)
	slices.SortFunc(byAge, func(a, b memberView) int { return cmp.Or(cmp.Compare(b.silent, a.silent), cmp.Compare(a.id, b.id)) })
	for _, m := range byAge {
		switch {
		case m.self || m.silent == 0:
		case !m.voter:
			if m.silent >= rules.dead {
				return step{cleanup, m.id, "it has not answered for " + m.silent.Round(time.Second).String()}
			}
		case voters <= leastVoters || !canLose:
		case m.silent >= rules.dead:
			return step{cleanup, m.id, "it has not answered for " + m.silent.Round(time.Second).String()}
		case voters%2 == 0 && m.silent >= min(rules.replaced, rules.dead):
			return step{cleanup, m.id, "it does not answer, and the others are stronger without it"}
		}
	}
	return step{}
}
