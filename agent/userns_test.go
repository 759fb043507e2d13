package agent

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestIDRanges(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	r, err := newIDRanges(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	firsts := map[uint32]bool{}
	for _, uid := range []string{"a", "b", "c"} {
		ids, err := r.of(uid)
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.of(uid)
		if err != nil || *again != *ids || ids.Count != 65536 || ids.First < 65536 || ids.First%65536 != 0 || uint64(ids.First)+65536 > math.MaxUint32 {
			t.Errorf("%s has %+v, then %+v, %v", uid, ids, again, err)
		}
		firsts[ids.First] = true
	}
	if len(firsts) != 3 {
		t.Errorf("two pods share users: %v", firsts)
	}
	before, _ := r.of("a")
	if err := r.release("b"); err != nil {
		t.Error(err)
	}
	if err := r.release("never had one"); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "bad"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad", "userns.json"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err = newIDRanges(dir, log); err != nil || len(r.byPod) != 2 || len(r.taken) != 2 {
		t.Fatalf("after a restart: %+v, %v", r, err)
	}
	if after, err := r.of("a"); err != nil || *after != *before {
		t.Errorf("a restart changed %+v to %+v, %v", before, after, err)
	}
	for i := range uint32(mostRanges) {
		r.taken[(i+1)*idsPerPod] = true
	}
	if _, err := r.of("one too many"); err == nil {
		t.Error("a range that somebody has was given away")
	}
	delete(r.taken, 5*idsPerPod)
	if ids, err := r.of("the last"); err != nil || ids.First != 5*idsPerPod {
		t.Errorf("the last one: %+v, %v", ids, err)
	}
}

func TestUserNamespaceOfAPod(t *testing.T) {
	r := newRig(t)
	r.create(testPod("own", func(p *v1.Pod) { p.Spec.HostUsers = ptr.To(false) }))
	own := r.wait("own", "own is ready", ready)
	r.create(testPod("hosts", func(p *v1.Pod) { p.Spec.HostUsers = ptr.To(true) }))
	hosts := r.wait("hosts", "hosts is ready", ready)
	s, _ := r.runtime.sandboxSpec(string(own.UID))
	if s.UserNS == nil || s.UserNS.Count != 65536 {
		t.Errorf("sandbox %+v", s)
	}
	if s, _ := r.runtime.sandboxSpec(string(hosts.UID)); s.UserNS != nil {
		t.Errorf("sandbox of the node's users %+v", s)
	}
	r.delete("own", 0)
	r.gone("own")
	r.until("its users are free", func() bool {
		r.agent.ids.mu.Lock()
		defer r.agent.ids.mu.Unlock()
		return len(r.agent.ids.byPod) == 0 && len(r.agent.ids.taken) == 0
	})
}
