package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/retry"

	"mgr/api/auth"
	"mgr/api/join"
	"mgr/fsm"
	"mgr/raftnode"
)

// An administrator removes a master by name. That is written down first (auth.RemovedMasters) and then done, by whoever leads; so it
// is done also when the leader changes in between, and when the leader itself is meant. A master refuses the removed one as soon as
// it knows a configuration without it; before that, its vote may be needed to commit one.

var masterResource = schema.GroupResource{Resource: "masters"}

const (
	expelEvery   = 250 * time.Millisecond
	removeWithin = 20 * time.Second
)

// serveRemoval answers DELETE /mgr/v1/members/ID.
func (p *Plane) serveRemoval(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodDelete {
		w.Header().Set("Allow", http.MethodDelete)
		join.Answer(w, nil, apierrors.NewMethodNotSupported(masterResource, r.Method))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), removeWithin)
	defer cancel()
	id := path.Base(r.URL.Path)
	join.Answer(w, map[string]string{"removed": id}, p.remove(ctx, id))
}

func (p *Plane) remove(ctx context.Context, id string) error {
	if err := p.node.ReadIndex(ctx); err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	if err := mayRemove(p.node.Members(), id); err != nil {
		return err
	}
	if err := p.noteRemoved(ctx, id, time.Now().UTC().Format(time.RFC3339)); err != nil {
		return fmt.Errorf("note that master %q is removed: %w", id, err)
	}
	tick := time.NewTicker(expelEvery / 5)
	defer tick.Stop()
	for p.node.IsMember(id) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return apierrors.NewServiceUnavailable(fmt.Sprintf("the removal of master %q is noted, and goes on; it still votes: %v", id, ctx.Err()))
		}
	}
	return nil
}

// mayRemove refuses what would leave no quorum that works.
func mayRemove(members []raftnode.Member, id string) error {
	var removed *raftnode.Member
	for i := range members {
		if members[i].ID == id {
			removed = &members[i]
		}
	}
	if removed == nil {
		return apierrors.NewNotFound(masterResource, id)
	}
	was := raftnode.Summarize(members)
	voters, healthy := was.Voters, was.Healthy
	if removed.Voter() {
		voters--
	}
	if removed.Healthy() {
		healthy--
	}
	switch {
	case voters == 0:
		return apierrors.NewConflict(masterResource, id, errors.New("it is the only one that votes: to end the cluster, stop it and delete its data directory"))
	case healthy < voters/2+1:
		return apierrors.NewConflict(masterResource, id, fmt.Errorf("of the %d others only %d are healthy, and %d are needed: the cluster would stop; "+
			"bring the others back, or add a master, first", voters, healthy, voters/2+1))
	}
	return nil
}

// noteRemoved writes or, with no time, deletes the note that a master was removed.
func (p *Plane) noteRemoved(ctx context.Context, id, at string) error {
	api := p.admin.CoreV1().ConfigMaps(auth.RemovedMastersNamespace)
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		list, err := api.Get(ctx, auth.RemovedMastersName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			if at == "" {
				return nil
			}
			list = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: auth.RemovedMastersName}, Data: map[string]string{id: at}}
			_, err = api.Create(ctx, list, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		if at == "" {
			delete(list.Data, id)
		} else {
			if list.Data == nil {
				list.Data = map[string]string{}
			}
			list.Data[id] = at
		}
		_, err = api.Update(ctx, list, metav1.UpdateOptions{})
		return err
	})
}

// readmit forgets a removal, for api/join: the holder of a server token may make a master of any name.
func (p *Plane) readmit(ctx context.Context, id string) error {
	if auth.CheckMaster(ctx, p.reader, id) == nil {
		return nil
	}
	return p.noteRemoved(ctx, id, "")
}

// expel closes the connections of removed masters and, on the leader, takes them out of the quorum.
func (p *Plane) expel(ctx context.Context) {
	tick := time.NewTicker(expelEvery)
	defer tick.Stop()
	for {
		removed, err := auth.RemovedMasters(ctx, p.reader)
		if err != nil {
			p.log.Warn("which masters were removed is not known", "err", err)
		}
		for id := range removed {
			if !p.node.IsMember(id) {
				p.callers.hangUp(id)
				continue
			}
			if p.node.Term() == 0 {
				continue
			}
			if err := p.node.Remove(ctx, id); err != nil && !errors.Is(err, fsm.ErrNotLeader) {
				p.log.Warn("a master is not removed yet", "id", id, "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// callers are the connections that other masters have opened to this one, by their ids.
type callers struct {
	mu    sync.Mutex
	conns map[string]map[net.Conn]struct{}
}

// add notes a connection; the function that it returns forgets it.
func (c *callers) add(id string, conn net.Conn) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[id] == nil {
		c.conns[id] = map[net.Conn]struct{}{}
	}
	c.conns[id][conn] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.conns[id], conn)
		if len(c.conns[id]) == 0 {
			delete(c.conns, id)
		}
	}
}

// hangUp closes all connections of a master.
func (c *callers) hangUp(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns[id] {
		conn.Close()
	}
}
