package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"mgr/failpoint"
	"mgr/pki"
	"mgr/pki/enroll"
	"mgr/raftnode"
)

// Files of the data directory that outlive the quorum's log.
const (
	joinedFile = "joined"     // this master has been a member
	peersFile  = "peers.json" // the others, as it knew them last: where it joins again when its own log cannot tell
)

const (
	askAgain   = time.Second
	loseHeart  = 5 * time.Second  // without a leader for so long, a master asks the others whether it is still a member
	asideKept  = 10 * time.Minute // how long a vote must have worked before the data of an earlier life are removed
	watchPeers = time.Second
)

func (m *Master) raftDir() string { return filepath.Join(m.cfg.Dir, "raft") }

// enter makes this master a member: of a new quorum, of the one it joins, or of the one that its log remembers.
func (m *Master) enter(ctx context.Context) error {
	marker := filepath.Join(m.cfg.Dir, joinedFile)
	_, err := os.Stat(marker)
	was := err == nil
	switch {
	case m.node.IsMember(m.cfg.ID) && !m.node.Fresh():
	case m.cfg.ClusterInit && !was:
		failpoint.Hit("join.bootstrap.before")
		err = m.node.Bootstrap()
		failpoint.Hit("join.bootstrap.after")
	default:
		err = m.insist(ctx, "the quorum has not taken this master in yet", m.candidate())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Hit("join.mark.before")
	defer failpoint.Hit("join.mark.after")
	return os.WriteFile(marker, nil, 0o600)
}

func (m *Master) candidate() enroll.Candidate {
	c := enroll.Candidate{Member: enroll.Member{ID: m.cfg.ID, Addr: m.addr.String()}}
	if m.Plane != nil {
		c.Instance = m.node.Instance()
	}
	return c
}

// apply asks the other masters once to take this one in.
func (m *Master) apply(ctx context.Context, c enroll.Candidate) error {
	others, err := m.others()
	if err == nil && len(others) == 0 {
		err = fmt.Errorf("no other master is known: name one with --join")
	}
	if err != nil {
		return err
	}
	failpoint.Hit("join.ask.before")
	return enroll.AddMember(ctx, m.authority.Trust, m.cert, others, c)
}

// insist asks the other masters to take this one in, until one does or refuses: right after a start there may be no leader yet.
func (m *Master) insist(ctx context.Context, notYet string, c enroll.Candidate) error {
	retry := time.NewTicker(askAgain)
	defer retry.Stop()
	for {
		err := m.apply(ctx, c)
		if err == nil || enroll.Final(err) {
			return err
		}
		m.log.Warn(notYet, "err", err)
		select {
		case <-ctx.Done():
			return err
		case <-retry.C:
		}
	}
}

// reinstall moves data that must not be used out of the way, once the others are able to give them back. Until then it
// waits: these may be the last ones.
func (m *Master) reinstall(ctx context.Context) error {
	reason, marked, err := raftnode.ReinstallReason(m.raftDir())
	if err != nil || !marked {
		return err
	}
	m.log.Error("the data of this master cannot be trusted: it joins the other masters anew", "reason", reason)
	others, err := m.others()
	if err != nil {
		return err
	}
	if len(others) == 0 {
		return fmt.Errorf("the data in %s cannot be trusted (%s), and no other master is known that could give them back; nothing was removed: "+
			"restore a snapshot (mgr snapshot restore), or name another master with --join", m.raftDir(), reason)
	}
	ask := m.candidate()
	ask.Ask = true
	if err := m.insist(ctx, "waiting with the data untouched: no other master can take this one in", ask); err != nil {
		return fmt.Errorf("the data in %s cannot be trusted (%s); nothing was removed: %w", m.raftDir(), reason, err)
	}
	failpoint.Hit("reinstall.aside.before")
	if err := raftnode.SetAside(m.raftDir()); err != nil {
		return err
	}
	failpoint.Hit("reinstall.aside.after")
	m.log.Warn("the data of this master's earlier life were moved aside", "to", m.raftDir()+".aside", "kept", asideKept.String()+" after it votes")
	return nil
}

// others are the addresses at which other masters may be found: those of the command line and those last known.
func (m *Master) others() ([]string, error) {
	all := slices.Clone(m.cfg.Join)
	b, err := os.ReadFile(filepath.Join(m.cfg.Dir, peersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	var known []enroll.Member
	if err == nil {
		err = json.Unmarshal(b, &known)
	}
	if err != nil {
		return nil, fmt.Errorf("read where the other masters are: %w", err)
	}
	for _, k := range known {
		if !slices.Contains(all, "https://"+k.Addr) {
			all = append(all, "https://"+k.Addr)
		}
	}
	return all, nil
}

// stayMember tells the leader where this master is, once after its start; keeps what this machine knows of the others; and, when
// there has been no leader for a while or the quorum has forgotten this master, asks whether it is still a member. What was
// cleaned up while it was away is taken in again; what an administrator removed is told so, and ends.
func (m *Master) stayMember(ctx context.Context) error {
	s := &stay{Master: m, led: time.Now()}
	tick := time.NewTicker(watchPeers)
	defer tick.Stop()
	for {
		if err := s.look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// stay is what stayMember remembers.
type stay struct {
	*Master
	known []enroll.Member
	noted bool      // known is on disk
	told  bool      // the leader knows where this master is
	clean bool      // nothing of an earlier life is left
	led   time.Time // when there was a leader last
	votes time.Time // since when this master has a vote

	complained bool // that nobody answers
}

func (s *stay) look(ctx context.Context) error {
	others, member := s.otherMembers(), s.node.IsMember(s.cfg.ID)
	id, _, leads := s.node.Leader()
	if id != "" || member && len(others) == 0 {
		s.led, s.complained = time.Now(), false
	}
	s.told = s.told || leads
	if member && !s.node.Fresh() {
		s.note(others)
	} else {
		s.votes = time.Time{} // and what its log says of the others may be long past
	}
	if member && len(others) == 0 || s.told && member && time.Since(s.led) < loseHeart {
		return nil
	}
	err := s.apply(ctx, s.candidate())
	if enroll.Final(err) {
		return err
	}
	if err != nil && !s.complained {
		s.complained = true
		s.log.Warn("no other master can say whether this one is a member; it goes on asking", "err", err)
	}
	s.told = s.told || err == nil
	return nil
}

func (s *stay) note(others []enroll.Member) {
	if !s.noted || !slices.Equal(others, s.known) {
		s.known, s.noted = others, true
		s.notePeers(others)
	}
	if s.votes.IsZero() {
		s.votes = time.Now()
	}
	if s.clean || time.Since(s.votes) < asideKept {
		return
	}
	s.clean = true
	if err := raftnode.DropAside(s.raftDir()); err != nil {
		s.log.Warn("the data of an earlier life were not removed", "err", err)
	}
}

func (m *Master) otherMembers() []enroll.Member {
	return slices.DeleteFunc(m.members(), func(o enroll.Member) bool { return o.ID == m.cfg.ID })
}

// notePeers keeps where the others are, for the next start and for the administrator.
func (m *Master) notePeers(others []enroll.Member) {
	b, err := json.Marshal(others)
	if err == nil {
		err = pki.WriteFile(filepath.Join(m.cfg.Dir, peersFile), append(b, '\n'))
	}
	if err != nil {
		m.log.Warn("where the other masters are was not noted", "err", err)
	}
	if err := m.writeKubeconfig(); err != nil {
		m.log.Warn("the administrator's kubeconfig was not written", "err", err)
	}
}

// addMember takes another master into the quorum, for api/join.
func (p *Plane) addMember(ctx context.Context, c enroll.Candidate) error {
	if c.Ask {
		return p.node.WouldTake(ctx, c.ID)
	}
	err := p.node.CheckIdentity(ctx, c.ID, c.Addr, c.Instance)
	if err == nil {
		err = p.node.Join(ctx, c.ID, c.Addr)
	}
	if errors.Is(err, raftnode.ErrIdentity) {
		return apierrors.NewConflict(masterResource, c.ID, err)
	}
	return err
}
