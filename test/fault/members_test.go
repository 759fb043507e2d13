package fault

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mgr/cmd/admin"
	"mgr/cmd/local"
	"mgr/raftnode"
	"mgr/test/cluster"
)

// TestMembership changes the membership of three real masters in every way that happens to people, while clients write, read and
// watch at all of them: afterwards nothing is lost, and the three are one state.
func TestMembership(t *testing.T) {
	w := Beside(t, cluster.Options{Name: "members"})
	l := w.StartLoad(t, 2, 8)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *World)
	}{
		{"wiped peer returns", wipedReturns},
		{"untrusted data are replaced", untrusted},
		{"changed address", movedAway},
		{"duplicate data directory", duplicate},
		{"removed while cut off", removedWhileCutOff},
		{"replaced under another name", replaced},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, w) }) {
			return
		}
	}
	t.Log(l.Finish(t))
	w.Converged(t)
}

// await waits until the members, as some master sees them, are as wanted.
func (w *World) await(t *testing.T, what string, wanted func([]admin.Member) error) {
	t.Helper()
	cluster.Eventually(t, time.Minute, what, func(ctx context.Context) error {
		members, err := w.Members(ctx)
		if err == nil {
			err = wanted(members)
		}
		return err
	})
}

// sound wants these masters, and all of them healthy.
func sound(ids ...string) func([]admin.Member) error {
	return func(members []admin.Member) error {
		var have []string
		for _, m := range members {
			have = append(have, m.ID)
		}
		s := raftnode.Summarize(members)
		if !slices.Equal(have, ids) || !s.Sound() {
			return fmt.Errorf("%v: %s: %+v", have, s, members)
		}
		return nil
	}
}

var trio = []string{"master-1", "master-2", "master-3"}

func (w *World) follower(t *testing.T) string {
	t.Helper()
	lead, _ := w.Whole(t)
	if lead.ID == "master-3" {
		return "master-2"
	}
	return "master-3"
}

// wipedReturns: a master loses its log and votes, and then the whole directory; it comes back under its name.
func wipedReturns(t *testing.T, w *World) {
	id := w.follower(t)
	w.Do(t, id, "stop")
	if err := os.RemoveAll(filepath.Join(w.DataDir(id), "raft")); err != nil {
		t.Fatal(err)
	}
	w.Do(t, id, "start")
	w.await(t, "it is back without its log", sound(trio...))
	w.Do(t, id, "stop")
	for _, name := range []string{"raft", "pki", "joined", "peers.json"} {
		if err := os.RemoveAll(filepath.Join(w.DataDir(id), name)); err != nil {
			t.Fatal(err)
		}
	}
	w.Do(t, id, "start")
	w.await(t, "it is back with nothing but its token", sound(trio...))
}

// untrusted: a master with a mark on its data waits with them while nobody else can give them back, and then has them replaced.
func untrusted(t *testing.T, w *World) {
	id := w.follower(t)
	others := slices.DeleteFunc(slices.Clone(trio), func(o string) bool { return o == id })
	data := filepath.Join(w.DataDir(id), "raft")
	for _, o := range append(others, id) {
		w.Do(t, o, "stop")
	}
	if err := raftnode.MarkReinstall(data, "a test says so"); err != nil {
		t.Fatal(err)
	}
	w.Do(t, id, "start")
	cluster.Eventually(t, 30*time.Second, "it says that it waits", func(context.Context) error {
		if !strings.Contains(w.Log(t, id), "waiting with the data untouched") {
			return errors.New("not yet")
		}
		return nil
	})
	if _, marked, err := raftnode.ReinstallReason(data); err != nil || !marked {
		t.Fatalf("the data are not untouched: %v", err)
	}
	for _, o := range others {
		w.Do(t, o, "start")
	}
	w.await(t, "it is installed anew", sound(trio...))
	if _, marked, err := raftnode.ReinstallReason(data); err != nil || marked {
		t.Errorf("the mark is still there: %v", err)
	}
	if reason, marked, err := raftnode.ReinstallReason(data + ".aside"); err != nil || !marked || reason != "a test says so" {
		t.Errorf("the old data are not kept: %q %v", reason, err)
	}
}

// netns runs a command as on a host.
func (w *World) netns(ctx context.Context, host string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", w.Name + "-" + host}, args...)...)
}

// address gives a host one more address, which ends in last.
func (w *World) address(t *testing.T, host string, last byte) netip.Addr {
	t.Helper()
	out, err := w.netns(t.Context(), host, "ip", "-o", "-4", "addr", "show", "scope", "global").Output()
	fields := strings.Fields(string(out)) // 2: eth0    inet 10.99.1.2/24 …
	if err != nil || len(fields) < 4 {
		t.Fatalf("addresses of %s: %v: %s", host, err, out)
	}
	has, err := netip.ParsePrefix(fields[3])
	if err != nil {
		t.Fatal(err)
	}
	b := has.Addr().As4()
	b[3] = last
	if out, err := w.netns(t.Context(), host, "ip", "addr", "add", netip.AddrFrom4(b).String()+"/24", "dev", fields[1]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return netip.AddrFrom4(b)
}

// movedAway: a master gets another address, and later its old one again.
func movedAway(t *testing.T, w *World) {
	id := w.follower(t)
	_, members := w.Whole(t)
	at := netip.MustParseAddrPort(members[slices.IndexFunc(members, func(m admin.Member) bool { return m.ID == id })].Addr)
	for _, to := range []netip.Addr{w.address(t, id, 200), at.Addr()} {
		w.Do(t, id, "stop")
		w.Override(t, id, local.Override{Args: []string{"--advertise", to.String()}})
		w.Do(t, id, "start")
		w.await(t, fmt.Sprintf("%s is at %s", id, to), func(members []admin.Member) error {
			for _, m := range members {
				if m.ID == id && !strings.HasPrefix(m.Addr, to.String()+":") {
					return errors.New(m.Addr)
				}
			}
			return sound(trio...)(members)
		})
	}
	w.Override(t, id, local.Override{})
}

// duplicate: a copy of a data directory that is started beside the original ends with the reason, and the original does not notice.
func duplicate(t *testing.T, w *World) {
	id := w.follower(t)
	w.Do(t, id, "stop")
	copied := t.TempDir()
	if out, err := exec.Command("cp", "-a", w.DataDir(id)+"/.", copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.Do(t, id, "start")
	lead, before := w.Whole(t)
	host := slices.IndexFunc(before, func(m admin.Member) bool { return m.ID == id })
	ip := netip.MustParseAddrPort(before[host].Addr).Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := w.netns(ctx, id, cluster.Binary(t), "server", "--id", id, "--data-dir", copied, "--advertise", ip, "--port", "7443").CombinedOutput()
	if err == nil || ctx.Err() != nil || !strings.Contains(string(out), "is running at "+before[host].Addr) {
		t.Errorf("the second process: %v: %s", err, out)
	}
	after, members := w.Whole(t)
	if after.ID != lead.ID || after.Term != lead.Term || members[host].PID != before[host].PID {
		t.Errorf("the quorum was disturbed: %+v, then %+v", before, members)
	}
}

// removedWhileCutOff: a master is removed by the others while it is cut off. When it is back it is refused, says so, and ends; a
// token lets it in again with nothing.
func removedWhileCutOff(t *testing.T, w *World) {
	id := w.follower(t)
	w.Do(t, id, "cut")
	said := len(w.Log(t, id))
	w.Must(t, "members", "remove", id)
	if out := w.Mgr(t.Context(), "members", "--check"); out.Code != 0 && !strings.Contains(out.Stdout, "2 masters, 2 healthy: survives the loss of none") {
		t.Errorf("after the removal: %+v", out)
	}
	others := slices.DeleteFunc(slices.Clone(trio), func(o string) bool { return o == id })
	if out := w.Mgr(t.Context(), "members", "remove", others[0]); out.Code != 0 {
		t.Errorf("the second of three cannot be removed: %+v", out) // one is left, and it is a quorum of its own
	}
	// Until the removed one has ended it may be asked, and refused by the other.
	cluster.Eventually(t, 30*time.Second, "the last master cannot be removed", func(ctx context.Context) error {
		if out := w.Mgr(ctx, "members", "remove", others[1]); out.Code == 0 || !strings.Contains(out.Stderr, "only one that votes") {
			return fmt.Errorf("%+v", out)
		}
		return nil
	})
	w.Do(t, id, "heal")
	for _, gone := range []string{id, others[0]} {
		cluster.Eventually(t, time.Minute, gone+" says that it was removed, and ends", func(context.Context) error {
			log := w.Log(t, gone)
			if gone == id {
				log = log[said:]
			}
			if !strings.Contains(log, "was removed from this cluster") {
				return errors.New("not yet")
			}
			return nil
		})
		w.Do(t, gone, "stop")
		w.startOver(t, gone)
		w.Do(t, gone, "start")
	}
	w.await(t, "they have joined as new ones", sound(trio...))
}

// startOver removes what a master knows, and has it join whoever is there: by its command line the founder would found a second
// cluster, and the others know only the founder.
func (w *World) startOver(t *testing.T, id string) {
	t.Helper()
	for _, name := range []string{"raft", "raft.aside", "pki", "joined", "peers.json"} {
		if err := os.RemoveAll(filepath.Join(w.DataDir(id), name)); err != nil {
			t.Fatal(err)
		}
	}
	var join []string
	for _, cfg := range w.Configs {
		join = append(join, "--join", cfg.Host)
	}
	w.Override(t, id, local.Override{Args: append([]string{"--cluster-init=false", "--token-file", filepath.Join(w.Dir, "token-server")}, join...)})
}

// replaced: a master dies, and another one takes its place, so the dead one is cleaned up. It comes back by itself, since nobody
// has removed it.
func replaced(t *testing.T, w *World) {
	dead := w.follower(t)
	w.Do(t, dead, "stop")
	w.Override(t, dead, local.Override{Args: []string{"--id", "master-4", "--data-dir", t.TempDir(), "--advertise", w.address(t, dead, 201).String()}})
	w.Do(t, dead, "start")
	w.await(t, "the new master has taken the dead one's place", sound(slices.DeleteFunc(append(slices.Clone(trio), "master-4"),
		func(id string) bool { return id == dead })...))
	w.Do(t, dead, "stop")
	w.Override(t, dead, local.Override{})
	w.Must(t, "members", "remove", "master-4")
	w.Do(t, dead, "start")
	w.await(t, "the dead one is back by itself", sound(trio...))
}
