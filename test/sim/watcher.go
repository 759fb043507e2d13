package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mgr/fsm"
)

// watched are the resources that watchers follow: the path, and the name under which the state keeps the objects.
var watched = []struct{ path, resource string }{
	{"/api/v1/configmaps", "configmaps"},
	{"/api/v1/pods", "pods"},
	{"/apis/apps/v1/replicasets", "replicasets.apps"},
	{"/apis/discovery.k8s.io/v1/endpointslices", "endpointslices.discovery.k8s.io"},
}

// seen is an event as a watcher was sent it.
type seen struct {
	typ      string
	revision uint64
	key      fsm.Key
}

// span is what one watcher was sent without a gap: all events after one revision up to another.
type span struct {
	watcher  string
	resource string
	from, to uint64
	events   []seen
	masters  []string
}

// frame is a line of a watch.
type frame[T any] struct {
	Type   string `json:"type"`
	Object T      `json:"object"`
}

// runWatcher lists once and then resumes at whichever master, with the last revision that it was told; only after an honest 410 it
// lists again.
func (w *world) runWatcher(number int) func(context.Context, *client) {
	what := watched[number%len(watched)]
	return func(ctx context.Context, c *client) {
		for ctx.Err() == nil {
			code, o, err := c.call(ctx, c.anywhere(), http.MethodGet, what.path, nil, nil)
			if err != nil || code != http.StatusOK {
				c.sleep(ctx, 20*time.Millisecond, 200*time.Millisecond)
				continue
			}
			if o.Metadata.revision() == 0 { // nothing was ever written; and to resume at 0 means: from anywhere
				c.sleep(ctx, 20*time.Millisecond, 200*time.Millisecond)
				continue
			}
			s := &span{watcher: c.name, resource: what.resource, from: o.Metadata.revision(), to: o.Metadata.revision()}
			w.told(s.from)
			for ctx.Err() == nil {
				if gone := w.follow(ctx, c, what.path, s); gone {
					break
				}
				c.sleep(ctx, 5*time.Millisecond, 100*time.Millisecond)
			}
			w.mu.Lock()
			w.spans = append(w.spans, s)
			w.mu.Unlock()
		}
	}
}

// follow watches at one master until the watch ends; gone says that the master answered 410.
func (w *world) follow(ctx context.Context, c *client, path string, s *span) (gone bool) {
	addr := c.anywhere()
	// Now and then a watcher goes elsewhere by itself.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(1+c.random.IntN(20))*time.Second)
	defer cancel()
	resp, err := c.send(ctx, addr, http.MethodGet, path, url.Values{
		"watch": {"1"}, "resourceVersion": {strconv.FormatUint(s.to, 10)}, "allowWatchBookmarks": {"true"},
	}, nil)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode == http.StatusGone && w.refusedHonestly(addr, s)
	}
	s.masters = append(s.masters, fmt.Sprintf("%s after %d at %v,", addr, s.to, w.elapsed().Round(time.Millisecond)))
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 4<<20)
	for lines.Scan() {
		var f frame[object]
		if json.Unmarshal(lines.Bytes(), &f) != nil {
			return false // cut off in the middle of a line
		}
		switch f.Type {
		case "ERROR":
			return f.Object.Code == http.StatusGone && w.refusedHonestly(addr, s)
		case "BOOKMARK":
			s.masters = append(s.masters, fmt.Sprintf("bookmark %d at %v,", f.Object.Metadata.revision(), w.elapsed().Round(time.Millisecond)))
			s.to = max(s.to, f.Object.Metadata.revision())
		default:
			m := f.Object.Metadata
			s.events = append(s.events, seen{f.Type, m.revision(), fsm.Key{Resource: s.resource, Namespace: m.Namespace, Name: m.Name}})
			s.to = m.revision()
		}
		w.told(s.to)
	}
	return false
}

// refusedHonestly: a master may answer 410 only if it has no history from there on. It returns true.
func (w *world) refusedHonestly(addr string, s *span) bool {
	w.totals.gone.Add(1)
	w.mu.Lock()
	var at *master
	for _, m := range w.masters {
		if m.Addr == addr && m.up {
			at = m
		}
	}
	w.mu.Unlock()
	if at == nil {
		return true
	}
	if _, err := at.FSM.Watch(s.resource, s.to); !errors.Is(err, fsm.ErrCompacted) {
		w.broke("%s refused to resume a watch of %s after revision %d with 410, but has the history (%v)", addr, s.resource, s.to, err)
	}
	return true
}

// checkSpan compares what a watcher was sent with the history.
func (w *world) checkSpan(s *span, events []*event) {
	i := 0
	for _, e := range events {
		if e.resource != s.resource || e.Revision <= s.from {
			continue
		}
		if i == len(s.events) {
			if e.Revision <= s.to {
				w.broke("%s was not sent %s of %s at revision %d, though it was told that it has everything up to %d (%s)",
					s.watcher, eventType(e.Type), e.Object.Key, e.Revision, s.to, strings.Join(s.masters, " "))
			}
			break
		}
		got := s.events[i]
		if got.revision != e.Revision || got.typ != eventType(e.Type) || got.key != e.Object.Key {
			w.broke("%s was sent %s of %s at revision %d where %s of %s at %d belongs (%s)", s.watcher, got.typ, got.key, got.revision,
				eventType(e.Type), e.Object.Key, e.Revision, strings.Join(s.masters, " "))
			return
		}
		i++
	}
	if i < len(s.events) {
		w.broke("%s was sent %d events that are not in the history, from revision %d on", s.watcher, len(s.events)-i, s.events[i].revision)
	}
	w.totals.events.Add(int64(i))
}
