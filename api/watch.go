package api

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/failpoint"
	"mgr/fsm"
)

const (
	// bookmarkEvery is how often a watcher that allows bookmarks learns how far it is.
	bookmarkEvery = time.Minute
	// gatherFor is stream.gather for connections: a busy watch is written in batches, an idle one at once. Batches of all
	// watchers fall on the same multiples of it, so that those which share a connection share its packets.
	gatherFor = 20 * time.Millisecond
	// gatherInside is the same for watchers in this process.
	gatherInside = 5 * time.Millisecond
)

// stream is one watch: the initial state if it was asked for, then the changes of the selected objects.
type stream struct {
	sel       selection
	cursor    *fsm.Cursor
	initial   fsm.View // nil: none
	endMark   bool     // tell when the initial state is complete
	bookmarks bool
	gather    time.Duration   // how long changes may wait for others when the watcher was sent some less than that ago
	done      <-chan struct{} // the server stops
}

// sink takes what a stream delivers.
type sink interface {
	// send takes one change; object is shared.
	send(typ watch.EventType, object *fsm.Object) error
	// bookmark says that everything up to revision was sent; initial, that this ends the initial state.
	bookmark(revision uint64, initial bool) error
	// flush hands on what was sent.
	flush() error
}

// open starts a stream. Errors are Statuses; one that says "too old" is delivered in the stream, as Kubernetes does.
func (st *store) open(ctx context.Context, options *internalversion.ListOptions) (*stream, error) {
	if closed(st.s.done) {
		return nil, apierrors.NewServiceUnavailable("this master stops: watch at another one")
	}
	q := st.quorum(ctx)
	w := &stream{
		sel:       st.selection(request.NamespaceValue(ctx), options),
		bookmarks: options.AllowWatchBookmarks,
		gather:    gatherFor,
		done:      st.s.done,
	}
	rv := options.ResourceVersion
	if err := st.s.reached(ctx, q, rv); err != nil {
		return nil, err
	}
	fresh := rv == "" || rv == "0"
	initial := fresh
	if options.SendInitialEvents != nil {
		initial = *options.SendInitialEvents
		w.endMark = initial && w.bookmarks
	}
	state := q.FSM().State()
	start := state.Revision()
	if !fresh && !initial {
		var err error
		if start, err = parseVersion(rv); err != nil {
			return nil, err
		}
	}
	if initial {
		w.initial = state.Resource(st.row.Storage())
	}
	cursor, err := q.FSM().Watch(st.row.Storage(), start)
	if err != nil {
		return nil, tooOld(start, q)
	}
	w.cursor = cursor
	return w, nil
}

// run delivers to out until ctx ends (nil), the server stops (nil), out fails, or history has moved past the watcher (a
// Status with code 410).
func (w *stream) run(ctx context.Context, out sink) error {
	if err := w.sendInitial(out); err != nil {
		return err
	}
	marks := time.NewTimer(bookmarkEvery)
	defer marks.Stop()
	next := time.NewTimer(time.Hour)
	defer next.Stop()
	for {
		sent, revision, more, err := w.deliver(out)
		if err != nil {
			return err
		}
		if sent {
			// What comes now waits for the next multiple of gather, with whatever else comes until then.
			now := time.Now()
			next.Reset(now.Truncate(w.gather).Add(w.gather).Sub(now))
			select {
			case <-next.C:
			case <-ctx.Done():
			}
			if ctx.Err() == nil && !closed(w.done) {
				continue
			}
		}
		select {
		case <-more:
		case <-marks.C:
			marks.Reset(bookmarkEvery)
			if w.bookmarks {
				if err := mark(out, revision, false); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return w.last(out, revision)
		case <-w.done:
			return w.last(out, revision)
		}
	}
}

func closed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// deliver sends and flushes all changes that there are, if any concern the watcher. It returns how far the watch is then, and what
// closes when there may be more.
func (w *stream) deliver(out sink) (sent bool, revision uint64, more <-chan struct{}, err error) {
	for {
		events, revision, more, err := w.cursor.Poll()
		if err != nil {
			return sent, revision, nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d: the watcher fell behind the history that is kept", revision))
		}
		if len(events) == 0 {
			if sent {
				failpoint.Hit("watch.flush.before")
				err = out.flush()
				failpoint.Hit("watch.flush.after")
			}
			return sent, revision, more, err
		}
		for i := range events {
			failpoint.Hit("watch.send")
			one, err := w.send(&events[i], out)
			if err != nil {
				return sent, revision, nil, err
			}
			sent = sent || one
		}
	}
}

// last ends a watch whose time is over: with a bookmark, so that the next watch starts where this ends.
func (w *stream) last(out sink, revision uint64) error {
	if w.bookmarks {
		return mark(out, revision, false)
	}
	return nil
}

func mark(out sink, revision uint64, initial bool) error {
	if err := out.bookmark(revision, initial); err != nil {
		return err
	}
	return out.flush()
}

func (w *stream) sendInitial(out sink) error {
	if w.initial == nil {
		return nil
	}
	for o := range w.initial.List(w.sel.namespace, "") {
		ok, err := w.sel.matches(o)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := out.send(watch.Added, o); err != nil {
			return err
		}
	}
	if w.endMark {
		return mark(out, w.initial.Revision(), true)
	}
	return out.flush()
}

// send delivers one event as the selection sees it; false: it does not concern the watcher.
func (w *stream) send(e *fsm.Event, out sink) (bool, error) {
	if !w.sel.in(e.Object) {
		return false, nil
	}
	now, before := e.Type != fsm.Deleted, e.Type != fsm.Added
	var err error
	if !w.sel.everything() {
		if now {
			if now, err = w.sel.matches(e.Object); err != nil {
				return false, err
			}
		}
		if before {
			if before, err = w.sel.matches(e.Prev); err != nil {
				return false, err
			}
		}
	}
	switch {
	case now && before:
		return true, out.send(watch.Modified, e.Object)
	case now:
		return true, out.send(watch.Added, e.Object)
	case before && e.Type == fsm.Deleted:
		return true, out.send(watch.Deleted, e.Object)
	case before:
		// It is still there but no longer selected: the watcher loses the form it knew, at the revision of the change.
		return true, out.send(watch.Deleted, &fsm.Object{
			Key: e.Prev.Key, UID: e.Prev.UID, Revision: e.Revision, Created: e.Prev.Created,
			Data: withRevision(e.Prev.Data, e.Revision),
		})
	}
	return false, nil
}

// Watch implements rest.Watcher: the way of watches that need tables, protobuf or conversion, and of clients in process.
func (st *store) Watch(ctx context.Context, options *internalversion.ListOptions) (watch.Interface, error) {
	if options == nil {
		options = &internalversion.ListOptions{}
	}
	w, err := st.open(ctx, options)
	if err != nil {
		if apierrors.IsResourceExpired(err) {
			return failedWatch(err), nil
		}
		return nil, err
	}
	w.gather = gatherInside
	ctx, cancel := context.WithCancel(ctx)
	c := &channelWatch{st: st, ctx: ctx, cancel: cancel, result: make(chan watch.Event, 64)}
	c.ended.Go(func() {
		defer close(c.result)
		if err := w.run(ctx, c); err != nil && ctx.Err() == nil {
			c.event(watch.Event{Type: watch.Error, Object: statusObject(err)})
		}
	})
	return c, nil
}

// failedWatch is a watch that says only why it cannot go on.
func failedWatch(err error) watch.Interface {
	c := make(chan watch.Event, 1)
	c <- watch.Event{Type: watch.Error, Object: statusObject(err)}
	close(c)
	return watch.NewProxyWatcher(c)
}

func statusObject(err error) runtime.Object {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		s := known.Status()
		setKind(&s, metav1.SchemeGroupVersion.WithKind("Status"))
		s.APIVersion = "v1"
		return &s
	}
	s := apierrors.NewInternalError(err).Status()
	s.Kind, s.APIVersion = "Status", "v1"
	return &s
}

// channelWatch delivers decoded, shared objects.
type channelWatch struct {
	st     *store
	ctx    context.Context
	cancel context.CancelFunc
	result chan watch.Event
	ended  sync.WaitGroup
}

var errStopped = errors.New("the watcher stopped")

func (c *channelWatch) ResultChan() <-chan watch.Event { return c.result }

// Stop implements watch.Interface; it returns when the goroutine behind the watch has ended.
func (c *channelWatch) Stop() {
	c.cancel()
	c.ended.Wait()
}

func (c *channelWatch) event(e watch.Event) error {
	select {
	case c.result <- e:
		return nil
	case <-c.ctx.Done():
		return errStopped
	}
}

func (c *channelWatch) send(typ watch.EventType, o *fsm.Object) error {
	obj, err := c.st.served(o)
	if err != nil {
		return err
	}
	return c.event(watch.Event{Type: typ, Object: obj})
}

func (c *channelWatch) bookmark(revision uint64, initial bool) error {
	obj, err := c.st.bookmark(revision, initial)
	if err != nil {
		return err
	}
	if c.ctx.Err() != nil {
		select {
		case c.result <- watch.Event{Type: watch.Bookmark, Object: obj}:
		default:
		}
		return nil
	}
	return c.event(watch.Event{Type: watch.Bookmark, Object: obj})
}

func (c *channelWatch) flush() error { return nil }
