package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mgr/backup"
	"mgr/failpoint"
	"mgr/pki"
	"mgr/raftnode"
	"mgr/raftnode/disk"
)

// RestoreGap is by how much the revisions of a cluster that is made of a snapshot are ahead of the snapshot's: more than can have been
// made between the snapshot and the end of the cluster (at 5,000 writes a second, two days), so that no client has seen them.
const RestoreGap = 1_000_000_000

// RestoreMaster makes the data directory of a master, cfg.Dir, from a snapshot: with it the master starts as the only one of its quorum, as
// the same cluster (CA, keys, objects). The quorum's epoch is new, so masters of before that still run are kept out. cfg is what the
// master will be started with; the directory must not exist or be empty, and is there, whole, or not at all.
func RestoreMaster(cfg MasterConfig, c *backup.Content) error {
	m := &Master{cfg: cfg, log: cfg.Log}
	dir := filepath.Clean(cfg.Dir)
	if err := vacant(dir); err != nil {
		return err
	}
	m.cfg.Dir = dir + ".restoring"
	if err := os.RemoveAll(m.cfg.Dir); err != nil {
		return err
	}
	defer os.RemoveAll(m.cfg.Dir)
	m.cfg.ServiceCIDR, m.cfg.PodCIDR = c.Header.ServiceCIDR, c.Header.PodCIDR
	if err := m.prepare(); err != nil {
		return err
	}
	err := m.build(c)
	if err == nil {
		failpoint.Hit("restore.rename.before")
		err = os.Rename(m.cfg.Dir, dir)
		failpoint.Hit("restore.rename.after")
	}
	if err == nil {
		err = disk.OS{}.SyncDir(filepath.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("restore into %s: %w", dir, err)
	}
	return nil
}

// build fills the data directory.
func (m *Master) build(c *backup.Content) error {
	authority, err := pki.FromSecrets(c.Keys)
	if err != nil {
		return err
	}
	if err := authority.Save(m.pkiDir()); err != nil {
		return err
	}
	failpoint.Hit("restore.keys.saved")
	if err := m.seed(c); err != nil {
		return err
	}
	failpoint.Hit("restore.seeded")
	if err := m.keepSettings(); err != nil {
		return err
	}
	return pki.WriteFile(filepath.Join(m.cfg.Dir, joinedFile), nil)
}

// restoredFile has the settings of a restored cluster, so that a master of it is not started with others.
const restoredFile = "restored.json"

func (m *Master) keepSettings() error {
	b, err := json.Marshal(clusterSettings{Services: m.services, Pods: m.pods, Domain: ClusterDomain})
	if err != nil {
		return err
	}
	return pki.WriteFile(filepath.Join(m.cfg.Dir, restoredFile), b)
}

// checkSettings compares the command line with the settings of a restored cluster, if this is one.
func (m *Master) checkSettings() error {
	b, err := os.ReadFile(filepath.Join(m.cfg.Dir, restoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var kept clusterSettings
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	if err == nil && (kept.Services != m.services || kept.Pods != m.pods) {
		err = fmt.Errorf("the cluster uses --service-cidr %s --pod-cidr %s: start this master with the same", kept.Services, kept.Pods)
	}
	return err
}

// vacant says whether dir can become a data directory.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: a restore makes a new data directory; name another one, or move this one away", dir)
	}
	return err
}

func (m *Master) seed(c *backup.Content) (err error) {
	storage, err := raftnode.OpenStorage(m.raftDir(), m.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, storage.Close()) }()
	return storage.Seed(m.cfg.ID, m.addr.String(), c.State.Renewed(RestoreGap), c.Header.Term, raftnode.NextEpoch(c.Header.Epoch))
}

// Recovery is what a survivor of a lost quorum has, and what is in the way of making it the first of a new one.
type Recovery struct {
	raftnode.Position
	ID       string            `json:"id"`
	Addr     string            `json:"address"`
	Others   []raftnode.Member `json:"others"`             // will be dropped; Reachable: it answers
	Distrust string            `json:"distrust,omitempty"` // why its data must not be used, if so

	dir     string
	storage *raftnode.Storage
}

// ExamineMaster looks at the data of a stopped master, cfg.ID in cfg.Dir, and asks the others whether they are there. Close ends it;
// until then no master can start with the directory.
func ExamineMaster(ctx context.Context, cfg MasterConfig) (*Recovery, error) {
	m := &Master{cfg: cfg, log: cfg.Log}
	if _, err := os.Stat(m.raftDir()); err != nil {
		return nil, fmt.Errorf("there is no data of a master in %s (--data-dir): %w", cfg.Dir, err)
	}
	authority, err := pki.Load(m.pkiDir())
	if err != nil {
		return nil, err
	}
	r := &Recovery{ID: cfg.ID, dir: m.raftDir()}
	if r.Distrust, _, err = raftnode.ReinstallReason(r.dir); err != nil {
		return nil, err
	}
	if r.storage, err = raftnode.OpenStorage(r.dir, cfg.Log); err != nil {
		return nil, fmt.Errorf("%w (stop the master first: systemctl stop mgr-server)", err)
	}
	if r.Position, err = r.storage.Examine(); err == nil {
		err = r.find(cfg)
	}
	if err == nil {
		err = r.ask(ctx, authority, cfg)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// find tells this master from the others.
func (r *Recovery) find(cfg MasterConfig) error {
	var ids []string
	for _, member := range r.Members {
		ids = append(ids, member.ID)
		if member.ID == r.ID {
			r.Addr = member.Addr
		} else {
			r.Others = append(r.Others, member)
		}
	}
	if !slices.Contains(ids, r.ID) {
		return fmt.Errorf("the log in %s is not that of a master %q: it knows %q; say which one this is with --id", cfg.Dir, r.ID, ids)
	}
	if cfg.Advertise == "" {
		return nil
	}
	ip, err := netip.ParseAddr(cfg.Advertise)
	if err != nil {
		return fmt.Errorf("--advertise %q: use an IP address", cfg.Advertise)
	}
	r.Addr = netip.AddrPortFrom(ip, uint16(cfg.Port)).String()
	return nil
}

const recoverPatience = 3 * time.Second

// ask finds out which of the others answer.
func (r *Recovery) ask(ctx context.Context, authority *pki.Authority, cfg MasterConfig) error {
	host, _, err := net.SplitHostPort(r.Addr)
	if err != nil {
		return fmt.Errorf("the address of this master: %w", err)
	}
	cert, err := authority.MasterCertificate(pki.Master(r.ID, ClusterDomain, nil, host), cfg.Log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range r.Others {
		wg.Go(func() {
			other := &r.Others[i]
			conn, err := pki.DialRaft(ctx, authority.Trust, cert, other.Addr, other.ID)
			if err == nil {
				other.Reachable = true
				conn.Close()
			}
		})
	}
	wg.Wait()
	return nil
}

// Answering are the other masters that answer: as long as there is one, the quorum may not be lost.
func (r *Recovery) Answering() []string {
	var ids []string
	for _, other := range r.Others {
		if other.Reachable {
			ids = append(ids, other.ID)
		}
	}
	return ids
}

// Recover makes this master the only one of its quorum, in a new epoch, which it returns. The next start of the master leads.
func (r *Recovery) Recover() (epoch uint64, err error) {
	if r.Distrust != "" {
		return 0, fmt.Errorf("the data in %s must not be used (%s): recover another master, or restore a snapshot", r.dir, r.Distrust)
	}
	return r.storage.Recover(r.ID, r.Addr)
}

// Close lets go of the data directory.
func (r *Recovery) Close() error { return r.storage.Close() }
