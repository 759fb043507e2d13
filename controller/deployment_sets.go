package controller

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
	"k8s.io/utils/ptr"
)

var deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Annotations by which a Deployment's history is kept; kubectl reads them.
const (
	annotationRevision        = "deployment.kubernetes.io/revision"
	annotationRevisionHistory = "deployment.kubernetes.io/revision-history"
	// What the set's Deployment wanted when the set was last scaled: a difference shows that the Deployment was scaled.
	annotationDesired = "deployment.kubernetes.io/desired-replicas"
	annotationMax     = "deployment.kubernetes.io/max-replicas"
	annotationApplied = corev1.LastAppliedConfigAnnotation
	annotationUndo    = "deprecated.deployment.rollback.to"
	// revisionHistoryLength bounds annotationRevisionHistory, in characters.
	revisionHistoryLength = 2000
	// maxSetName leaves room for the suffix of generated pod names.
	maxSetName = 63 - 1 - 5
)

// sameTemplate compares pod templates without the hash label that tells the sets apart.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// templateHash names a template, salted with the number of collisions met before.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*t))
	if collisions != nil {
		var salt [8]byte
		binary.LittleEndian.PutUint32(salt[:], uint32(*collisions))
		h.Write(salt[:])
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// newSet is the ReplicaSet of d's present template, without replicas.
func newSet(d *appsv1.Deployment, revision int64) *appsv1.ReplicaSet {
	template := d.Spec.Template.DeepCopy()
	hash := templateHash(template, d.Status.CollisionCount)
	template.Labels = withLabel(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	name := d.Name
	if over := len(name) + 1 + len(hash) - maxSetName; over > 0 && over < len(name) {
		name = strings.TrimRight(name[:len(name)-over], "-.")
	}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: name + "-" + hash, Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, deploymentKind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](0), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template,
		},
	}
	annotate(set, d, revision)
	return set
}

func withLabel(labels map[string]string, hash string) map[string]string {
	out := map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: hash}
	for k, v := range labels {
		if k != appsv1.DefaultDeploymentUniqueLabelKey {
			out[k] = v
		}
	}
	return out
}

// annotate gives set the annotations of its Deployment and makes it the given revision, remembering those it was before.
func annotate(set *appsv1.ReplicaSet, d *appsv1.Deployment, revision int64) {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		switch k {
		case annotationApplied, annotationRevision, annotationRevisionHistory, annotationDesired, annotationMax, annotationUndo:
		default:
			set.Annotations[k] = v
		}
	}
	was, had := set.Annotations[annotationRevision]
	if revisionOf(set) >= revision {
		return
	}
	set.Annotations[annotationRevision] = strconv.FormatInt(revision, 10)
	if !had {
		return
	}
	history := []string{was}
	if h := set.Annotations[annotationRevisionHistory]; h != "" {
		history = append(strings.Split(h, ","), was)
	}
	for len(history) > 1 && len(strings.Join(history, ",")) > revisionHistoryLength {
		history = history[1:]
	}
	set.Annotations[annotationRevisionHistory] = strings.Join(history, ",")
}

func revisionOf(set *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(set.Annotations[annotationRevision], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// setScale writes how many replicas set is to have, and what the Deployment wanted at that time.
func setScale(set *appsv1.ReplicaSet, d *appsv1.Deployment, n int32) {
	set.Spec.Replicas = &n
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[annotationDesired] = strconv.Itoa(int(wanted(d)))
	set.Annotations[annotationMax] = strconv.Itoa(int(wanted(d) + maxSurge(d)))
}

func annotatedCount(set *appsv1.ReplicaSet, name string) (int32, bool) {
	n, err := strconv.ParseInt(set.Annotations[name], 10, 32)
	return int32(n), err == nil
}

func wanted(d *appsv1.Deployment) int32       { return ptr.Deref(d.Spec.Replicas, 1) }
func replicasOf(set *appsv1.ReplicaSet) int32 { return ptr.Deref(set.Spec.Replicas, 1) }
func rolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType
}
func hasProgressDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// fenceposts resolves maxSurge (rounded up) and maxUnavailable (rounded down); both zero would never move, so one may be
// unavailable then.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	if !rolling(d) {
		return 0, 0
	}
	var r appsv1.RollingUpdateDeployment
	if d.Spec.Strategy.RollingUpdate != nil {
		r = *d.Spec.Strategy.RollingUpdate
	}
	zero := intstr.FromInt32(0)
	s, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(r.MaxSurge, zero)), int(wanted(d)), true)
	if err != nil {
		s = 0
	}
	u, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(r.MaxUnavailable, zero)), int(wanted(d)), false)
	if err != nil {
		u = 0
	}
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), min(int32(u), wanted(d))
}

func maxSurge(d *appsv1.Deployment) int32 {
	s, _ := fenceposts(d)
	return s
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, u := fenceposts(d)
	return u
}

// byAge orders sets from the oldest to the newest.
func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func sumOf(sets []*appsv1.ReplicaSet, count func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, s := range sets {
		n += count(s)
	}
	return n
}

func available(set *appsv1.ReplicaSet) int32 { return set.Status.AvailableReplicas }

// staying is how many available replicas the set will have when it has done what it was told last: its status may lag
// behind its spec.
func staying(set *appsv1.ReplicaSet) int32 { return min(available(set), replicasOf(set)) }

// withReplicas are the sets that are to have pods.
func withReplicas(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(s *appsv1.ReplicaSet) bool { return replicasOf(s) == 0 })
}
