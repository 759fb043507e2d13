package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/fsm"
)

// historyParameter asks a get or list for a History instead: history=changes, or history=deleted for the last change of each object that
// is not there any more. since (a time) and limit (a number, of the newest) choose changes, selectors objects.
const historyParameter = "history"

// History is what is known of the changes of one object, or of the objects that a list selects. Who may get the object, or list them, may
// read it.
type History struct {
	metav1.TypeMeta `json:",inline"`
	// Resource and group, "deployments.apps".
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Revision of the state when it was asked.
	Revision uint64 `json:"revision"`
	// Begins says how far back the history reaches: earlier changes are not known any more.
	Begins Beginning `json:"begins"`
	// Left counts the older changes that since and limit have left out.
	Left int `json:"left,omitempty"`
	// Object is the present form of the one object; none: it is not there.
	Object json.RawMessage `json:"object,omitempty"`
	// Changes, the oldest first.
	Changes []Change `json:"changes"`
}

// Beginning is the first point in time that history knows.
type Beginning struct {
	Revision uint64     `json:"revision"`
	Time     *time.Time `json:"time,omitempty"`
}

// Change of one object.
type Change struct {
	Revision  uint64     `json:"revision"`
	Time      *time.Time `json:"time,omitempty"` // by the clock of who led then; nil: not known
	Type      string     `json:"type"`           // ADDED, MODIFIED, DELETED
	Namespace string     `json:"namespace,omitempty"`
	Name      string     `json:"name"`
	UID       string     `json:"uid"`
	Actor     string     `json:"actor,omitempty"` // who
	Cause     string     `json:"cause,omitempty"` // by what: verb and path of the request
	// Before is the form before the change, where no earlier change tells it and there was one.
	Before json.RawMessage `json:"before,omitempty"`
	// Object is the form that the change made; for DELETED the last one.
	Object json.RawMessage `json:"object"`
}

var changeTypes = map[fsm.EventType]string{fsm.Added: "ADDED", fsm.Modified: "MODIFIED", fsm.Deleted: "DELETED"}

// historyQuery is what a request for history asks.
type historyQuery struct {
	deleted bool
	since   time.Time
	limit   int // 0: all
	sel     selection
}

func (e *endpoint) historyQuery(r *http.Request, info *request.RequestInfo, query url.Values) (historyQuery, error) {
	q := historyQuery{}
	switch kind := query.Get(historyParameter); {
	case kind == "changes":
	case kind == "deleted" && info.Verb == "list":
		q.deleted = true
	default:
		return q, apierrors.NewBadRequest(fmt.Sprintf("invalid %s=%q: it must be changes, or deleted for a list", historyParameter, kind))
	}
	var err error
	if text := query.Get("since"); text != "" {
		if q.since, err = parseTime(text, time.Now()); err != nil {
			return q, err
		}
	}
	if text := query.Get("limit"); text != "" {
		if q.limit, err = strconv.Atoi(text); err != nil || q.limit < 0 {
			return q, apierrors.NewBadRequest(fmt.Sprintf("invalid limit %q: it must be a number", text))
		}
	}
	options := &internalversion.ListOptions{}
	if info.Verb == "list" {
		given := metav1.ListOptions{LabelSelector: query.Get("labelSelector"), FieldSelector: query.Get("fieldSelector")}
		if options, err = internalOptions(given); err != nil {
			return q, err
		}
	}
	q.sel = e.store.selection(info.Namespace, options)
	if info.Verb == "get" {
		q.sel.name = info.Name
	}
	return q, nil
}

// serveHistory answers a request for history.
func (e *endpoint) serveHistory(w http.ResponseWriter, r *http.Request, info *request.RequestInfo, query url.Values) error {
	if info.Subresource != "" {
		return apierrors.NewBadRequest("ask for the history of the object itself")
	}
	q, err := e.historyQuery(r, info, query)
	if err != nil {
		return err
	}
	h, err := e.store.history(e.store.s.cfg.Quorum.FSM().State(), &q)
	if err != nil {
		return err
	}
	if info.Verb == "get" {
		h.Name = info.Name
		if h.Object == nil && len(h.Changes) == 0 && h.Left == 0 {
			e := apierrors.NewNotFound(e.kind.GroupResource(), info.Name)
			e.ErrStatus.Message += fmt.Sprintf(", nor in the history, which begins at %s", h.Begins)
			return e
		}
	}
	b, err := json.Marshal(h)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // an error means that the client is gone
	return nil
}

// history collects what q asks for.
func (st *store) history(state *fsm.State, q *historyQuery) (*History, error) {
	storage := st.row.Storage()
	h := &History{
		TypeMeta: metav1.TypeMeta{Kind: "History", APIVersion: "mgr/v1"}, Resource: st.kind.GroupResource().String(), Namespace: q.sel.namespace,
		Revision: state.Revision(), Begins: beginningOf(state, storage), Changes: []Change{},
	}
	events, err := q.choose(state, storage)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if n := len(events); q.limit > 0 && n > q.limit {
		h.Left, events = n-q.limit, events[n-q.limit:]
	}
	i := 0
	for i < len(events) && events[i].Time < q.since.UnixMilli() {
		i++
	}
	h.Left, events = h.Left+i, events[i:]
	told := map[fsm.Key]bool{}
	for _, e := range events {
		c, err := st.change(e, !told[e.Object.Key])
		if err != nil {
			return nil, err
		}
		told[e.Object.Key] = true
		h.Changes = append(h.Changes, c)
	}
	if q.sel.name != "" {
		if o := state.Get(fsm.Key{Resource: storage, Namespace: q.sel.namespace, Name: q.sel.name}); o != nil {
			h.Object, err = st.raw(o)
		}
	}
	return h, err
}

// choose returns the changes of the objects asked for, whatever their time and number.
func (q *historyQuery) choose(state *fsm.State, resource string) ([]*fsm.Event, error) {
	var events []*fsm.Event
	for e := range state.Changes(resource, 0) {
		if q.deleted && e.Type != fsm.Deleted || !q.sel.in(e.Object) {
			continue
		}
		if ok, err := q.sel.matches(e.Object); err != nil {
			return nil, err
		} else if ok {
			events = append(events, e)
		}
	}
	if !q.deleted {
		return events, nil
	}
	last := map[fsm.Key]*fsm.Event{}
	for _, e := range events {
		last[e.Object.Key] = e
	}
	return slices.DeleteFunc(events, func(e *fsm.Event) bool { return last[e.Object.Key] != e || state.Get(e.Object.Key) != nil }), nil
}

func (st *store) change(e *fsm.Event, first bool) (Change, error) {
	c := Change{
		Revision: e.Revision, Type: changeTypes[e.Type], Namespace: e.Object.Key.Namespace, Name: e.Object.Key.Name, UID: e.Object.UID,
		Actor: e.Actor, Cause: e.Cause,
	}
	if e.Time > 0 {
		t := time.UnixMilli(e.Time).UTC()
		c.Time = &t
	}
	var err error
	if first && e.Type == fsm.Modified {
		if c.Before, err = st.raw(e.Prev); err != nil {
			return c, err
		}
	}
	c.Object, err = st.raw(e.Object)
	return c, err
}

// raw is the JSON of an object as this row serves it.
func (st *store) raw(o *fsm.Object) (json.RawMessage, error) {
	if st.kind.FromStored == nil {
		return o.Data, nil
	}
	obj, err := st.served(o)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return b, nil
}
