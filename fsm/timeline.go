package fsm

import (
	"slices"
	"sort"
)

// timeline says which revision the state had at the beginning of each second in which something changed, so that points in time
// can be asked for (State.RevisionAt) and revisions be told apart by people (State.SecondOf). It is used by value, like history: the
// writer only ever appends behind what readers hold.
type timeline struct {
	moments []moment
	partial bool // there were changes before the first moment
}

// moment: when second began, the state was at revision before; the first change of that second follows.
type moment struct {
	second int64 // since 1970, by the leader's clock
	before uint64
}

// keepMoments is how many moments are left when there are twice as many: 18 hours of a cluster that changes every second.
const keepMoments = 1 << 16

// note records that revision before was left at milliseconds since 1970; they never go back.
func (t *timeline) note(milliseconds int64, before uint64) {
	if milliseconds == 0 {
		t.moments, t.partial = nil, true // a change of which nobody knows the time
		return
	}
	second := milliseconds / 1000
	if n := len(t.moments); n > 0 && t.moments[n-1].second >= second {
		return
	}
	if len(t.moments) == 2*keepMoments {
		t.moments = slices.Clone(t.moments[keepMoments:]) // readers hold the old array
		t.partial = true
	}
	t.moments = append(t.moments, moment{second: second, before: before})
}

// RevisionAt returns the revision that the state had when a second (since 1970, by the clock of whoever led then) began:
// ErrCompacted when that is not known any more.
func (s *State) RevisionAt(second int64) (uint64, error) {
	m := s.times.moments
	i := sort.Search(len(m), func(i int) bool { return m[i].second >= second })
	switch {
	case s.times.partial && (len(m) == 0 || second < m[0].second):
		return 0, ErrCompacted
	case i == len(m):
		return s.revision, nil
	}
	return m[i].before, nil
}

// SecondOf returns the second (since 1970) in which a revision came to be; false if that is not known any more.
func (s *State) SecondOf(revision uint64) (second int64, ok bool) {
	m := s.times.moments
	i := sort.Search(len(m), func(i int) bool { return m[i].before >= revision })
	if i == 0 || revision > s.revision {
		return 0, false
	}
	return m[i-1].second, true
}

// Floor returns the oldest revision for which StateAt can tell what there was of a resource.
func (s *State) Floor(resource string) uint64 {
	if t := s.table(resource); t != nil {
		return t.history.floor
	}
	return s.floor
}

// FirstSecond returns the first second in which something is known to have changed; false: there is none.
func (s *State) FirstSecond() (second int64, ok bool) {
	if m := s.times.moments; len(m) > 0 {
		return m[0].second, true
	}
	return 0, false
}
