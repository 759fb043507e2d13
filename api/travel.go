package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/fsm"
)

// Reads of the past: a get or list may name a revision (atRevision=812), or a time (at=5m, at=2026-11-23T10:00:00Z), and is answered
// with what it would have been answered then, in the same form and by the same rights as now. History is bounded; what is older is
// refused with 410 and how far back one can go.
const (
	atRevisionParameter = "atRevision"
	atParameter         = "at"
	// RevisionHeader tells which revision the answer to a read of the past is of.
	RevisionHeader = "Mgr-Revision"
)

// past is what a request of the past is about.
type past struct {
	revision uint64
	at       time.Time // for ages; zero: not known
}

func pastOf(ctx context.Context) *past {
	p, _ := ctx.Value(pastKey).(*past)
	return p
}

// nowOf is the time that ages are told for.
func nowOf(ctx context.Context) time.Time {
	if p := pastOf(ctx); p != nil && !p.at.IsZero() {
		return p.at
	}
	return time.Now()
}

// mayTravel spares nearly all requests to have their query parsed.
func mayTravel(query string) bool {
	return query != "" && (strings.Contains(query, atParameter+"=") || strings.Contains(query, atRevisionParameter+"=") ||
		strings.Contains(query, historyParameter+"="))
}

// travel prepares a request of the past, or answers one for history. It returns nil when the request is answered.
func (s *Server) travel(w http.ResponseWriter, r *http.Request, e *endpoint, info *request.RequestInfo) *http.Request {
	query := r.URL.Query()
	if !query.Has(atRevisionParameter) && !query.Has(atParameter) && !query.Has(historyParameter) {
		return r
	}
	if err := travels(e, info, query); err != nil {
		s.fail(w, r, err)
		return nil
	}
	if err := s.reached(r.Context(), s.cfg.Quorum, ""); err != nil {
		s.fail(w, r, err)
		return nil
	}
	if query.Has(historyParameter) {
		if err := e.serveHistory(w, r, info, query); err != nil {
			s.fail(w, r, err)
		}
		return nil
	}
	p, err := s.pointInTime(e.store.row.Storage(), query)
	if err != nil {
		s.fail(w, r, err)
		return nil
	}
	w.Header().Set(RevisionHeader, strconv.FormatUint(p.revision, 10))
	return r.WithContext(context.WithValue(r.Context(), pastKey, p))
}

// travels says why a request cannot be one of the past.
func travels(e *endpoint, info *request.RequestInfo, query url.Values) error {
	const names = atRevisionParameter + ", " + atParameter + " and " + historyParameter
	switch {
	case info.Verb != "get" && info.Verb != "list":
		return apierrors.NewBadRequest(fmt.Sprintf("%s are for get and list only, not for %s: what is past can be read, not changed or followed", names, info.Verb))
	case e.store == nil || !slices.Contains([]string{"", "status", "scale"}, info.Subresource) || e.verbs[info.Verb] == nil:
		return apierrors.NewBadRequest(fmt.Sprintf("%s are for stored objects, not for %s", names, strings.Join(info.Parts, "/")))
	case isLease(e.store.row) && info.Namespace == corev1.NamespaceNodeLease:
		return apierrors.NewBadRequest("the heartbeats of nodes are kept in memory, without a history")
	case query.Get("resourceVersion") != "":
		return apierrors.NewBadRequest("resourceVersion and " + names + " exclude each other")
	case query.Has(atRevisionParameter) && query.Has(atParameter):
		return apierrors.NewBadRequest(atRevisionParameter + " and " + atParameter + " exclude each other")
	}
	return nil
}

// pointInTime finds the revision that a query names, in the history of a resource.
func (s *Server) pointInTime(resource string, query url.Values) (*past, error) {
	state := s.cfg.Quorum.FSM().State()
	if text := query.Get(atParameter); query.Has(atParameter) {
		at, err := parseTime(text, time.Now())
		if err != nil {
			return nil, err
		}
		revision, err := state.RevisionAt(at.Unix())
		if err != nil {
			return nil, tooFarBack(at.Format(time.RFC3339), state, resource)
		}
		return checked(&past{revision: revision, at: at}, at.Format(time.RFC3339), state, resource)
	}
	text := query.Get(atRevisionParameter)
	revision, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid revision %q: it must be a decimal number, as in metadata.resourceVersion", text))
	}
	p := &past{revision: revision}
	if second, ok := state.SecondOf(revision); ok {
		p.at = time.Unix(second+1, 0) // when the second was over
	}
	return checked(p, fmt.Sprintf("revision %d", revision), state, resource)
}

// checked returns p if the history of resource reaches back to it.
func checked(p *past, what string, state *fsm.State, resource string) (*past, error) {
	switch {
	case p.revision > state.Revision():
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s is in the future: the cluster is at revision %d", what, state.Revision()))
	case p.revision < state.Floor(resource):
		return nil, tooFarBack(what, state, resource)
	}
	return p, nil
}

// tooFarBack says how far back one can go.
func tooFarBack(what string, state *fsm.State, resource string) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("%s is too far back: the history of %s begins at %s", what, resource, beginningOf(state, resource)))
}

// beginning is from where on the history of a resource can be read.
func beginningOf(state *fsm.State, resource string) Beginning {
	b := Beginning{Revision: state.Floor(resource)}
	if second, ok := state.FirstSecond(); ok {
		if later, known := state.SecondOf(b.Revision); known {
			second = later + 1 // the first at whose beginning the revision was there
		}
		t := time.Unix(second, 0).UTC()
		b.Time = &t
	}
	return b
}

// String is for messages.
func (b Beginning) String() string {
	text := fmt.Sprintf("revision %d", b.Revision)
	if b.Time != nil {
		text += fmt.Sprintf(" (%s, %s ago)", b.Time.Format(time.RFC3339), duration.HumanDuration(time.Since(*b.Time)))
	}
	return text
}

// parseTime reads a time as users write it: so long ago ("5m", "2h30m", "3d"), or a timestamp. Fractions of seconds are cut off.
func parseTime(text string, now time.Time) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		ago, err := parseAgo(text)
		if err != nil {
			return at, apierrors.NewBadRequest(fmt.Sprintf("invalid time %q: write how long ago (5m, 2h30m, 3d) or a timestamp (%s)",
				text, now.UTC().Format(time.RFC3339)))
		}
		at = now.Add(-ago)
	}
	if at.After(now) {
		return at, apierrors.NewBadRequest(fmt.Sprintf("%s is in the future", at.UTC().Format(time.RFC3339)))
	}
	return at.UTC().Truncate(time.Second), nil
}

func parseAgo(text string) (time.Duration, error) {
	ago := time.Duration(0)
	if days, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, err
		}
		if ago = time.Duration(n) * 24 * time.Hour; rest == "" {
			return ago, nil
		}
		text = rest
	}
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		err = errors.New("negative")
	}
	return ago + d, err
}

// object reads one object as the request wants it: as it is now, not older than resourceVersion says, or as it was.
func (st *store) object(ctx context.Context, name, resourceVersion string) (*fsm.Object, error) {
	q := st.quorum(ctx)
	if p := pastOf(ctx); p != nil {
		k := st.key(ctx, name)
		v, err := q.FSM().StateAt(k.Resource, p.revision)
		if err != nil {
			return nil, tooFarBack(fmt.Sprintf("revision %d", p.revision), q.FSM().State(), k.Resource)
		}
		if o := v.Get(k.Namespace, k.Name); o != nil {
			return o, nil
		}
		e := apierrors.NewNotFound(st.kind.GroupResource(), name)
		e.ErrStatus.Message += fmt.Sprintf(" at revision %d", p.revision)
		return nil, e
	}
	if err := st.s.reached(ctx, q, resourceVersion); err != nil {
		return nil, err
	}
	o := q.FSM().State().Get(st.key(ctx, name))
	if o == nil {
		return nil, apierrors.NewNotFound(st.kind.GroupResource(), name)
	}
	return o, nil
}
