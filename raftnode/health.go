package raftnode

import (
	"fmt"
	"time"
)

// Voter says whether the member counts for a quorum.
func (m Member) Voter() bool { return m.Role != "nonvoter" }

// Healthy says whether the member can be counted on for a majority.
func (m Member) Healthy() bool { return m.Voter() && m.Reachable && !m.Diverged && !m.Gated }

// State says in a few words how the member is; "ok" when there is nothing to say.
func (m Member) State() string {
	switch {
	case !m.Reachable && m.LastContact < 0:
		return "unreachable"
	case !m.Reachable:
		return "unreachable for " + m.LastContact.Round(time.Second).String()
	case m.Diverged:
		return "quarantined: its state is wrong"
	case m.Fresh && !m.Admitted:
		return "has no data, waits to be taken in"
	case !m.Voter() && m.Behind > 0:
		return fmt.Sprintf("catching up, %d behind", m.Behind)
	case !m.Voter():
		return "caught up, no vote yet"
	case m.Gated:
		return "does not vote yet"
	case m.Full:
		return "disk full: refuses writes"
	case m.Behind > lag:
		return fmt.Sprintf("%d behind", m.Behind)
	case m.Older:
		return "earlier version"
	}
	return "ok"
}

// Summary of the members.
type Summary struct {
	Members   int `json:"members"`
	Voters    int `json:"voters"`
	Healthy   int `json:"healthy"`   // voters
	Tolerance int `json:"tolerance"` // how many healthy voters may be lost before the cluster stops; negative: it has stopped
}

// Summarize counts the members.
func Summarize(members []Member) Summary {
	s := Summary{Members: len(members)}
	for _, m := range members {
		if m.Voter() {
			s.Voters++
		}
		if m.Healthy() {
			s.Healthy++
		}
	}
	s.Tolerance = s.Healthy - majority(s.Voters)
	return s
}

// Sound says whether every member votes and is healthy and, of a cluster that is made to lose one, one can be lost.
func (s Summary) Sound() bool {
	return s.Healthy == s.Members && (s.Tolerance > 0 || s.Voters < leastVoters)
}

// String says what the numbers mean.
func (s Summary) String() string {
	masters := "masters"
	if s.Voters == 1 {
		masters = "master"
	}
	text := fmt.Sprintf("%d %s, %d healthy: ", s.Voters, masters, s.Healthy)
	switch {
	case s.Tolerance < 0:
		return text + fmt.Sprintf("no quorum, %d are needed; bring them back, or see `mgr recover`", majority(s.Voters))
	case s.Tolerance == 0:
		text += "survives the loss of none"
	default:
		text += fmt.Sprintf("survives the loss of %d", s.Tolerance)
	}
	if s.Voters%2 == 0 {
		text += "; with an even number, one is of no use"
	}
	if left := s.Members - s.Voters; left > 0 {
		text += fmt.Sprintf("; %d more without a vote yet", left)
	}
	return text
}

// memberGauges are the figures of the membership; how many are healthy is known to the leader alone.
func (n *Node) memberGauges(all map[string]float64) {
	voters, need := n.voters()
	all["mgr_raft_peers"], all["mgr_raft_voters"] = float64(len(n.servers())), float64(len(voters))
	if well := n.wellVoters.Load(); n.Term() != 0 && well > 0 {
		all["mgr_raft_healthy_voters"] = float64(well)
		all["mgr_raft_failure_tolerance"] = float64(int(well) - need)
	}
}
