package scheduler

// domains are the values of one node label: which nodes are near one another.
type domains struct {
	of    []int32 // domain of each node of the view; -1: the node has no such label
	count int
}

func newDomains(key string, nodes []*node) *domains {
	d := &domains{of: make([]int32, len(nodes))}
	ids := map[string]int32{}
	for i, n := range nodes {
		value, found := n.object.Labels[key]
		if !found {
			d.of[i] = -1
			continue
		}
		id, known := ids[value]
		if !known {
			id = int32(len(ids))
			ids[value] = id
		}
		d.of[i] = id
	}
	d.count = len(ids)
	return d
}

// tally is an amount for each domain.
type tally struct {
	*domains
	amounts []int64
}

func newTally(d *domains) tally { return tally{d, make([]int64, d.count)} }

// add counts for the domain of node i; false: it is in none.
func (t *tally) add(i int, by int64) bool {
	d := t.of[i]
	if d >= 0 {
		t.amounts[d] += by
	}
	return d >= 0
}

// at is the amount near node i; none where the node is in no domain.
func (t *tally) at(i int) int64 {
	if d := t.of[i]; d >= 0 {
		return t.amounts[d]
	}
	return 0
}

// spreadTally counts the pods that one spread constraint means.
type spreadTally struct {
	tally
	*spread
	eligible []bool  // nodes whose pods count
	present  []bool  // domains that have such a node
	found    int     // how many those are
	weight   float64 // of a pod: the more domains, the more it says
	least    int64   // pods in the emptiest of them
	stale    bool    // least is to be found anew
}

// skew is by how much the domain of node i would exceed the emptiest one with the pod in it; the node is in a domain.
func (s *spreadTally) skew(i int) int64 {
	if s.stale {
		s.least, s.stale = 0, false
		if s.found >= s.minDomains && s.found > 0 {
			s.least = -1
			for d, there := range s.present {
				if there && (s.least < 0 || s.amounts[d] < s.least) {
					s.least = s.amounts[d]
				}
			}
		}
	}
	return s.at(i) + int64(s.self) - s.least
}
