package evict

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Observation is how much there is of something.
type Observation struct{ Available, Capacity *resource.Quantity }

// Observations by signal; what could not be observed is missing.
type Observations map[Signal]Observation

// State is what is remembered from one look to the next. The zero value has seen nothing.
type State struct {
	first map[int]time.Time                  // since when a threshold, by its place in the list, is met
	seen  map[v1.NodeConditionType]time.Time // when the condition was last seen
	acted map[int]bool                       // thresholds that were met with their grace, and whose reclaim is not over
}

// Look takes an observation and returns the node's conditions now, and the thresholds for which something has to go, the most
// urgent first: memory, then the others. transition is how long a condition stays after it was last seen.
func (s *State) Look(thresholds []Threshold, o Observations, transition time.Duration, now time.Time) ([]v1.NodeConditionType, []Threshold) {
	if s.first == nil {
		s.first, s.seen, s.acted = map[int]time.Time{}, map[v1.NodeConditionType]time.Time{}, map[int]bool{}
	}
	var due []Threshold
	for i, t := range thresholds {
		if !t.met(o, s.acted[i]) {
			delete(s.first, i)
			delete(s.acted, i)
			continue
		}
		if _, known := s.first[i]; !known {
			s.first[i] = now
		}
		s.seen[meanings[t.Signal].condition] = now
		if now.Sub(s.first[i]) >= t.Grace {
			s.acted[i] = true
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b Threshold) int { return cmp.Compare(urgency(a), urgency(b)) })
	var conditions []v1.NodeConditionType
	for _, c := range []v1.NodeConditionType{v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure} {
		if at, ok := s.seen[c]; ok && now.Sub(at) < transition {
			conditions = append(conditions, c)
		}
	}
	return conditions, due
}

func urgency(t Threshold) int {
	if t.Signal.Resource() == v1.ResourceMemory {
		return 0
	}
	return 1
}

// met says whether too little is available; reclaiming: until MinReclaim more than the threshold is.
func (t Threshold) met(o Observations, reclaiming bool) bool {
	seen, ok := o[t.Signal]
	if !ok {
		return false
	}
	least := t.Value.Of(seen.Capacity)
	if reclaiming {
		least.Add(*t.MinReclaim.Of(seen.Capacity))
	}
	return least.Cmp(*seen.Available) > 0
}

// Relieved says whether no threshold is met any more, minimum reclaims included: nothing has to be evicted.
func Relieved(thresholds []Threshold, o Observations) bool {
	return !slices.ContainsFunc(thresholds, func(t Threshold) bool { return t.met(o, true) })
}
