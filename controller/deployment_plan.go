package controller

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
)

// rollout is what is known of a Deployment when its next step is planned.
type rollout struct {
	d       *appsv1.Deployment
	all     []*appsv1.ReplicaSet
	running map[types.UID]bool // sets that still have pods which have not ended (Recreate only)
	now     time.Time

	current *appsv1.ReplicaSet   // of the present template; nil: not created yet
	old     []*appsv1.ReplicaSet // the others, from the oldest
}

// rolloutPlan is one step: sets to make, change and remove, and what to tell of it.
type rolloutPlan struct {
	create   *appsv1.ReplicaSet
	update   []setChange
	remove   []*appsv1.ReplicaSet
	revision string // of the Deployment; "" leaves it
	status   appsv1.DeploymentStatus
	look     time.Duration // when time alone changes something; 0: never
}

type setChange struct{ found, want *appsv1.ReplicaSet }

// planRollout decides the next step. It takes one only when the last one's effect is visible in v, so it may be called as
// often as one likes.
func planRollout(v rollout) rolloutPlan {
	v.sort()
	var p rolloutPlan
	if v.d.DeletionTimestamp == nil {
		switch {
		case v.d.Spec.Paused || v.scaledSince():
			p = v.planScale()
			if v.d.Spec.Paused {
				p.remove = v.surplus()
			}
		case rolling(v.d):
			p = v.planRolling()
		default:
			p = v.planRecreate()
		}
		v.annotateCurrent(&p)
	}
	p.status, p.look = v.status(p.create)
	return p
}

// sort tells the set of the present template from the others.
func (v *rollout) sort() {
	v.all = slices.SortedFunc(slices.Values(v.all), byAge)
	for _, set := range v.all {
		// The oldest of several that are equal: which one it is must not change from look to look.
		if v.current == nil && sameTemplate(&set.Spec.Template, &v.d.Spec.Template) {
			v.current = set
		} else {
			v.old = append(v.old, set)
		}
	}
}

// scaledSince: the Deployment's number was changed after its sets were last scaled.
func (v *rollout) scaledSince() bool {
	for _, set := range withReplicas(v.all) {
		if n, ok := annotatedCount(set, annotationDesired); ok && n != wanted(v.d) {
			return true
		}
	}
	return false
}

func (v *rollout) nextRevision() int64 {
	var last int64
	for _, set := range v.old {
		last = max(last, revisionOf(set))
	}
	return last + 1
}

// annotateCurrent lets the present set follow the Deployment's annotations, revision and minReadySeconds.
func (v *rollout) annotateCurrent(p *rolloutPlan) {
	if p.create != nil {
		p.revision = p.create.Annotations[annotationRevision]
	}
	if v.current == nil {
		return
	}
	i := slices.IndexFunc(p.update, func(c setChange) bool { return c.found == v.current })
	want := v.current.DeepCopy()
	if i >= 0 {
		want = p.update[i].want
	}
	annotate(want, v.d, v.nextRevision())
	want.Spec.MinReadySeconds = v.d.Spec.MinReadySeconds
	p.revision = want.Annotations[annotationRevision]
	if i < 0 && (!maps.Equal(want.Annotations, v.current.Annotations) || want.Spec.MinReadySeconds != v.current.Spec.MinReadySeconds) {
		p.update = append(p.update, setChange{v.current, want})
	}
}

// scale plans set to have n replicas and says whether that changes its number.
func (v *rollout) scale(p *rolloutPlan, set *appsv1.ReplicaSet, n int32) bool {
	want := set.DeepCopy()
	setScale(want, v.d, n)
	if replicasOf(set) != n || !maps.Equal(want.Annotations, set.Annotations) {
		p.update = append(p.update, setChange{set, want})
	}
	return replicasOf(set) != n
}

// makeCurrent plans the set of a new revision with as many replicas as it may start with.
func (v *rollout) makeCurrent(p *rolloutPlan) {
	p.create = newSet(v.d, v.nextRevision())
	setScale(p.create, v.d, v.currentMay(0))
}

// currentMay is how many replicas the present set, having n, may have now.
func (v *rollout) currentMay(n int32) int32 {
	if !rolling(v.d) || n > wanted(v.d) {
		return wanted(v.d)
	}
	room := wanted(v.d) + maxSurge(v.d) - sumOf(v.all, replicasOf)
	return n + max(0, min(room, wanted(v.d)-n))
}

// planRolling: first the new set grows into the surge, then old ones shrink as far as availability allows.
func (v *rollout) planRolling() (p rolloutPlan) {
	if v.current == nil {
		v.makeCurrent(&p)
		return p
	}
	if v.scale(&p, v.current, v.currentMay(replicasOf(v.current))) {
		return p
	}
	if v.shrinkOld(&p) {
		return p
	}
	if v.complete() {
		p.remove = v.surplus()
	}
	return p
}

// shrinkOld takes from old sets: unhealthy replicas first, since they serve nobody, then healthy ones down to what must stay
// available. Pods of the new set that are not available yet are not counted on.
func (v *rollout) shrinkOld(p *rolloutPlan) bool {
	sizes := map[*appsv1.ReplicaSet]int32{}
	for _, set := range v.old {
		sizes[set] = replicasOf(set)
	}
	minAvailable := wanted(v.d) - maxUnavailable(v.d)
	missing := replicasOf(v.current) - staying(v.current)
	room := sumOf(v.all, replicasOf) - minAvailable - missing
	if room <= 0 {
		return false
	}
	for _, set := range v.old {
		n := max(0, min(room, sizes[set]-staying(set)))
		sizes[set] -= n
		room -= n
	}
	healthy := min(room, sumOf(v.all, staying)-minAvailable)
	for _, set := range v.old {
		n := max(0, min(healthy, sizes[set]))
		sizes[set] -= n
		healthy -= n
	}
	changed := false
	for _, set := range v.old {
		if sizes[set] != replicasOf(set) {
			changed = v.scale(p, set, sizes[set]) || changed
		}
	}
	return changed
}

// planRecreate: all old pods go, and only when the last has ended the new set gets any.
func (v *rollout) planRecreate() (p rolloutPlan) {
	shrunk, ended := false, true
	for _, set := range v.old {
		if replicasOf(set) > 0 {
			shrunk = v.scale(&p, set, 0) || shrunk
		}
		ended = ended && set.Status.Replicas == 0 && !v.running[set.UID]
	}
	switch {
	case shrunk || !ended:
	case v.current == nil:
		v.makeCurrent(&p)
	case v.scale(&p, v.current, wanted(v.d)):
	case v.complete():
		p.remove = v.surplus()
	}
	return p
}

// planScale follows a change of the Deployment's number, also in the middle of a rollout, where every set gets its share
// so that the risk stays what it was.
func (v *rollout) planScale() (p rolloutPlan) {
	active := withReplicas(v.all)
	switch {
	case len(v.all) == 0:
	case len(active) <= 1:
		set := v.current
		if len(active) == 1 {
			set = active[0]
		}
		if set == nil {
			set = v.old[len(v.old)-1]
		}
		v.scale(&p, set, wanted(v.d))
	case v.saturated():
		for _, set := range withReplicas(v.old) {
			v.scale(&p, set, 0)
		}
	case rolling(v.d):
		v.scaleInProportion(&p, active)
	}
	return p
}

// saturated: the new set alone serves all that is wanted.
func (v *rollout) saturated() bool {
	if v.current == nil {
		return false
	}
	n, ok := annotatedCount(v.current, annotationDesired)
	return ok && n == wanted(v.d) && replicasOf(v.current) == n && v.current.Status.AvailableReplicas == n
}

func (v *rollout) scaleInProportion(p *rolloutPlan, active []*appsv1.ReplicaSet) {
	var allowed int32
	if wanted(v.d) > 0 {
		allowed = wanted(v.d) + maxSurge(v.d)
	}
	toAdd := allowed - sumOf(active, replicasOf)
	// The largest set takes the remainder: the newest of equal ones when growing, the oldest when shrinking.
	slices.SortFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(-cmp.Compare(replicasOf(a), replicasOf(b)), age)
	})
	sizes := make([]int32, len(active))
	var added int32
	for i, set := range active {
		share := v.share(set, toAdd, added)
		sizes[i] = replicasOf(set) + share
		added += share
	}
	sizes[0] = max(0, sizes[0]+toAdd-added)
	for i, set := range active {
		v.scale(p, set, sizes[i])
	}
}

// share is what set gets (or gives, when negative) of toAdd, of which added is given out already.
func (v *rollout) share(set *appsv1.ReplicaSet, toAdd, added int32) int32 {
	if toAdd == 0 || toAdd == added {
		return 0
	}
	fraction := -replicasOf(set)
	if wanted(v.d) > 0 {
		before, ok := annotatedCount(set, annotationMax)
		if !ok || before == 0 {
			before = v.d.Status.Replicas
		}
		if before == 0 {
			return 0
		}
		size := float64(replicasOf(set)) * float64(wanted(v.d)+maxSurge(v.d)) / float64(before)
		fraction = int32(math.Round(size)) - replicasOf(set)
	}
	if toAdd > 0 {
		return min(fraction, toAdd-added)
	}
	return max(fraction, toAdd-added)
}

// surplus are the old sets beyond the history limit, the lowest revisions first; one that still has pods stays.
func (v *rollout) surplus() []*appsv1.ReplicaSet {
	limit := v.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	alive := slices.DeleteFunc(slices.Clone(v.old), func(s *appsv1.ReplicaSet) bool { return s.DeletionTimestamp != nil })
	over := len(alive) - int(*limit)
	if over <= 0 {
		return nil
	}
	slices.SortStableFunc(alive, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	return slices.DeleteFunc(alive[:over], func(s *appsv1.ReplicaSet) bool {
		return s.Status.Replicas != 0 || replicasOf(s) != 0 || s.Generation > s.Status.ObservedGeneration
	})
}

func (v *rollout) complete() bool { return completeStatus(v.d, v.counts()) }
