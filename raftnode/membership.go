package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
	"mgr/fsm"
)

// Member is one peer as this one sees it.
type Member struct {
	ID           string        `json:"id"`
	Addr         string        `json:"address"`
	Role         string        `json:"role"` // leader, voter, nonvoter
	Reachable    bool          `json:"reachable"`
	LastContact  time.Duration `json:"lastContact"` // since its last answer to this peer; -1: none yet
	Term         uint64        `json:"term"`
	LastIndex    uint64        `json:"lastIndex"`
	AppliedIndex uint64        `json:"appliedIndex"`
	HashIndex    uint64        `json:"hashIndex,omitempty"` // log index at which the state hashes of all were compared; 0: was not
	Hash         string        `json:"hash,omitempty"`
	Diverged     bool          `json:"diverged,omitempty"` // its hash differs from that of most
	Full         bool          `json:"full,omitempty"`     // its data directory
	Fresh        bool          `json:"fresh,omitempty"`    // it has had no vote since it started with no data
	Admitted     bool          `json:"admitted,omitempty"` // fresh, but it takes the log
	Gated        bool          `json:"gated,omitempty"`    // it does not vote now
	Behind       uint64        `json:"behind,omitempty"`   // log entries that others have applied and it has not
	Older        bool          `json:"older,omitempty"`    // its program knows less than that of others
	Health       string        `json:"health"`             // State, for those who read JSON
	PID          int           `json:"pid,omitempty"`
	Version      string        `json:"version,omitempty"`
	Level        fsm.Level     `json:"level,omitempty"` // feature level that its state is at
	Knows        fsm.Level     `json:"knows,omitempty"` // the highest feature level that its program knows
}

// peerStatus is what a peer says of itself.
type peerStatus struct {
	ID           string `json:"id"`
	Term         uint64 `json:"term"`
	LastIndex    uint64 `json:"lastIndex"`
	LastTerm     uint64 `json:"lastTerm"` // of the entry at LastIndex
	AppliedIndex uint64 `json:"appliedIndex"`
	Diverged     bool   `json:"diverged"` // as it found out itself
	Cold         bool   `json:"cold"`     // it has just started
	Full         bool   `json:"full"`
	Fresh        uint64 `json:"fresh,omitempty"`    // it has had no vote since it started with no data: number of that life
	Admitted     bool   `json:"admitted,omitempty"` // fresh, but it takes the log
	Gated        bool   `json:"gated,omitempty"`    // it does not vote now
	Instance     uint64 `json:"instance,omitempty"` // of its process
	PID          int    `json:"pid"`
	Version      string `json:"version"`

	Level fsm.Level `json:"level,omitempty"`
	Knows fsm.Level `json:"knows,omitempty"` // 0: it is from before levels

	Leader  string        `json:"leader,omitempty"`  // whom it follows
	Silence time.Duration `json:"silence,omitempty"` // since it heard of that one
	Refused string        `json:"refused,omitempty"` // the leader, if its host refused it just now; only when asked for
}

// cold is how long after its start a peer is a worse successor than others.
const cold = 10 * time.Second

func (n *Node) status() peerStatus {
	stats := n.raft.Stats()
	number := func(name string) uint64 {
		v, _ := strconv.ParseUint(stats[name], 10, 64) // raft prints them in decimal
		return v
	}
	leader, _, self := n.Leader()
	silence := time.Since(n.raft.LastContact())
	if self {
		silence = 0
	}
	fresh, admitted := n.gate.life()
	return peerStatus{
		Leader: leader, Silence: silence,
		ID: n.config.ID, Term: n.raft.CurrentTerm(), LastIndex: number("last_log_index"), LastTerm: number("last_log_term"),
		AppliedIndex: n.fsm.State().Index(), Diverged: n.diverged.Load(), Cold: time.Since(n.opened) < cold, Full: n.full.Load(),
		Fresh: fresh, Admitted: admitted != 0, Gated: n.gate.votes() != nil, Instance: n.instance, PID: os.Getpid(), Version: n.config.Version,
		Level: n.fsm.State().Level(), Knows: n.fsm.Knows(),
	}
}

// contacts remembers when each peer last answered, by address.
type contacts struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (c *contacts) note(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[addr] = time.Now()
}

func (c *contacts) since(addr string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.at[addr]; ok {
		return time.Since(t)
	}
	return -1
}

// servers of the latest configuration, which may not be committed yet.
func (n *Node) servers() []raft.Server {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

func (n *Node) server(id string) (raft.Server, bool) {
	for _, s := range n.servers() {
		if string(s.ID) == id {
			return s, true
		}
	}
	return raft.Server{}, false
}

func (n *Node) idOf(addr string) string {
	for _, s := range n.servers() {
		if string(s.Address) == addr {
			return string(s.ID)
		}
	}
	return ""
}

// IsMember says whether the cluster, as far as this peer knows, has a peer with this id.
func (n *Node) IsMember(id string) bool {
	_, ok := n.server(id)
	return ok
}

// Peers lists the members without asking them: ID, Addr and Role only.
func (n *Node) Peers() []Member {
	leader, _, _ := n.Leader()
	var all []Member
	for _, s := range n.servers() {
		all = append(all, Member{ID: string(s.ID), Addr: string(s.Address), Role: role(s, leader)})
	}
	return all
}

// Members asks all peers how they are, for at most Timing.RPC. It can be called on any peer.
func (n *Node) Members() []Member {
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.RPC)
	defer cancel()
	servers := n.servers()
	leader, _, _ := n.Leader()
	members := make([]Member, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		members[i] = Member{ID: string(s.ID), Addr: string(s.Address), Role: role(s, leader)}
		wg.Go(func() { n.examine(ctx, s, &members[i]) })
	}
	wg.Wait()
	n.compareHashes(ctx, members)
	assess(members)
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return members
}

// assess fills in what follows from all answers together.
func assess(members []Member) {
	newest, knows := uint64(0), fsm.Level(0)
	for _, m := range members {
		newest, knows = max(newest, m.AppliedIndex), max(knows, m.Knows)
	}
	for i := range members {
		m := &members[i]
		if m.Reachable {
			m.Behind, m.Older = newest-m.AppliedIndex, m.Knows < knows
		}
		m.Health = m.State()
	}
}

func role(s raft.Server, leader string) string {
	switch {
	case string(s.ID) == leader:
		return "leader"
	case s.Suffrage == raft.Voter:
		return "voter"
	}
	return "nonvoter"
}

func (n *Node) examine(ctx context.Context, s raft.Server, m *Member) {
	st, err := n.statusOf(ctx, s)
	m.LastContact = n.contacts.since(m.Addr)
	if m.ID == n.config.ID {
		m.LastContact = 0
	}
	if err != nil {
		return
	}
	m.Reachable, m.Term, m.LastIndex, m.AppliedIndex = true, st.Term, st.LastIndex, st.AppliedIndex
	m.Diverged, m.Full, m.PID, m.Version = st.Diverged, st.Full, st.PID, st.Version
	m.Fresh, m.Admitted, m.Gated = st.Fresh != 0, st.Admitted, st.Gated
	m.Level, m.Knows = max(st.Level, fsm.LevelFirst), st.knows()
}

func (n *Node) statusOf(ctx context.Context, s raft.Server) (peerStatus, error) {
	if string(s.ID) == n.config.ID {
		return n.status(), nil
	}
	return n.askStatus(ctx, s, methodStatus)
}

// askStatus asks another peer by a method that answers with its status.
func (n *Node) askStatus(ctx context.Context, s raft.Server, method byte) (peerStatus, error) {
	var st peerStatus
	b, err := n.rpc.call(ctx, string(s.ID), string(s.Address), []byte{method})
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("status of master %s: %w", s.ID, err)
	}
	if st.ID != string(s.ID) {
		return st, fmt.Errorf("at %s answers master %s, not %s", s.Address, st.ID, s.ID)
	}
	return st, nil
}

// compareHashes asks all reachable members for the hash of their state at one index, the lowest that they are at.
func (n *Node) compareHashes(ctx context.Context, members []Member) {
	var index uint64
	for _, m := range members {
		if m.Reachable && m.AppliedIndex > 0 && (index == 0 || m.AppliedIndex < index) {
			index = m.AppliedIndex
		}
	}
	var wg sync.WaitGroup
	hashes := make([]uint64, len(members))
	for i := range members {
		if m := &members[i]; m.Reachable && index > 0 {
			wg.Go(func() {
				var err error
				if hashes[i], err = n.hashOf(ctx, m.ID, m.Addr, index); err == nil {
					m.HashIndex, m.Hash = index, fmt.Sprintf("%016x", hashes[i])
				}
			})
		}
	}
	wg.Wait()
	markDiverged(members)
}

func markDiverged(members []Member) {
	votes := map[string]int{}
	most := ""
	for _, m := range members {
		if m.Hash == "" {
			continue
		}
		votes[m.Hash]++
		if v := votes[m.Hash]; v > votes[most] || v == votes[most] && m.Role == "leader" {
			most = m.Hash
		}
	}
	for i := range members {
		members[i].Diverged = members[i].Diverged || members[i].Hash != "" && members[i].Hash != most
	}
}

func (n *Node) hashOf(ctx context.Context, id, addr string, index uint64) (uint64, error) {
	if id != n.config.ID {
		return n.rpc.number(ctx, id, addr, hashRequest(index))
	}
	hash, ok := n.fsm.HashAt(index)
	if !ok {
		return 0, errors.New("not kept")
	}
	return hash, nil
}

const pollEvery = 50 * time.Millisecond

// Join adds a peer, which must be running (Open, no Bootstrap), as a non-voter and returns when it has caught up and
// votes. A peer that moved may join again under its id from a new address; one whose id is in use elsewhere is
// refused. It is called on the leader (fsm.ErrNotLeader).
func (n *Node) Join(ctx context.Context, id, addr string) error {
	if id == "" || addr == "" {
		return errors.New("join: the id and the address of the new master are needed")
	}
	if err := n.admit(ctx, id, addr); err != nil {
		return fmt.Errorf("join master %s at %s: %w", id, addr, err)
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if s, ok := n.server(id); ok && s.Suffrage == raft.Voter && string(s.Address) == addr && n.knowsItVotes(ctx, s) {
			return nil
		} else if !ok {
			return fmt.Errorf("join master %s: it was removed meanwhile", id)
		}
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return fmt.Errorf("join master %s: %w", id, errClosed)
		case <-ctx.Done():
			return fmt.Errorf("join master %s: it is a non-voter and will vote once it has caught up: %w", id, ctx.Err())
		}
	}
}

// admit puts the peer into the configuration, if it may be there.
func (n *Node) admit(ctx context.Context, id, addr string) error {
	failpoint.Hit("member.admit.before")
	n.admitting.Lock()
	defer n.admitting.Unlock()
	if n.Term() == 0 {
		return fsm.ErrNotLeader
	}
	if other := n.idOf(addr); other != "" && other != id {
		return fmt.Errorf("the address belongs to master %s; remove that one first", other)
	}
	old, known := n.server(id)
	if known && string(old.Address) != addr {
		if err := n.moved(ctx, old, addr); err != nil {
			return err
		}
	}
	if err := n.knowsEnough(ctx, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(addr)}); err != nil {
		return err
	}
	sid := raft.ServerID(id)
	if known && string(old.Address) != addr {
		// Not by changing the address: raft replicates to the old one meanwhile, and reads it without a lock.
		if err := n.changed(n.raft.RemoveServer(sid, 0, 0)); err != nil {
			return err
		}
		known = false
	}
	if known && n.forgot(ctx, old) {
		// It may have voted and acknowledged entries that it has forgotten: see gate.
		return n.restart(old)
	}
	if now, ok := n.server(id); ok && string(now.Address) == addr {
		return nil // it is where it should be
	}
	return n.changed(n.raft.AddNonvoter(sid, raft.ServerAddress(addr), 0, 0))
}

// forgot says whether a member has started with nothing and must begin as a non-voter.
func (n *Node) forgot(ctx context.Context, s raft.Server) bool {
	st, err := n.ask(ctx, s)
	if err != nil {
		return false
	}
	if st.Fresh == 0 { // it has not, or is of a version that does not say so
		return s.Suffrage == raft.Voter && st.LastIndex == 0
	}
	return !st.Admitted
}

// knowsItVotes says whether a voter makes use of its vote.
func (n *Node) knowsItVotes(ctx context.Context, s raft.Server) bool {
	st, err := n.ask(ctx, s)
	return err == nil && !st.Gated
}

// changed waits for a configuration change.
func (n *Node) changed(f raft.IndexFuture) error {
	failpoint.Hit("config.change.sent")
	err := n.settle(f)
	failpoint.Hit("config.change.committed")
	if err != nil {
		return proposeError(err)
	}
	return nil
}

// lag is how many entries a peer may miss and still count as caught up.
const lag = 64

// Remove takes a peer out of the cluster. It is called on the leader; a leader that is to remove itself hands over
// leadership first and answers fsm.ErrNotLeader, so that the caller asks the new one.
func (n *Node) Remove(ctx context.Context, id string) error {
	s, ok := n.server(id)
	voters, _ := n.voters()
	switch {
	case n.Term() == 0:
		return fmt.Errorf("remove master %s: %w", id, fsm.ErrNotLeader)
	case !ok:
		return fmt.Errorf("remove master %s: there is no master with this id", id)
	case s.Suffrage == raft.Voter && len(voters) == 1:
		return fmt.Errorf("remove master %s: it is the only voter", id)
	case id == n.config.ID:
		if err := n.TransferLeadership(ctx); err != nil {
			return fmt.Errorf("remove master %s: %w", id, err)
		}
		return fmt.Errorf("remove master %s: it has handed over leadership: %w", id, fsm.ErrNotLeader)
	}
	n.admitting.Lock()
	defer n.admitting.Unlock()
	if err := n.changed(n.raft.RemoveServer(s.ID, 0, 0)); err != nil {
		return fmt.Errorf("remove master %s: %w", id, err)
	}
	return nil
}
