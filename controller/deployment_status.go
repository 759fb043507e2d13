package controller

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of a Deployment's conditions, as kubectl rollout status and others know them.
const (
	reasonSetUpdated       = "ReplicaSetUpdated"
	reasonSetCreateError   = "ReplicaSetCreateError"
	reasonNewSet           = "NewReplicaSetCreated"
	reasonFoundSet         = "FoundNewReplicaSet"
	reasonSetAvailable     = "NewReplicaSetAvailable"
	reasonTimedOut         = "ProgressDeadlineExceeded"
	reasonPaused           = "DeploymentPaused"
	reasonResumed          = "DeploymentResumed"
	reasonMinAvailable     = "MinimumReplicasAvailable"
	reasonMinUnavailable   = "MinimumReplicasUnavailable"
	progressDeadlineMargin = time.Second // times are kept in whole seconds
)

// counts is the status without its conditions.
func (v *rollout) counts() appsv1.DeploymentStatus {
	s := appsv1.DeploymentStatus{
		ObservedGeneration: v.d.Generation,
		Replicas:           sumOf(v.all, func(r *appsv1.ReplicaSet) int32 { return r.Status.Replicas }),
		ReadyReplicas:      sumOf(v.all, func(r *appsv1.ReplicaSet) int32 { return r.Status.ReadyReplicas }),
		AvailableReplicas:  sumOf(v.all, available),
		CollisionCount:     v.d.Status.CollisionCount,
	}
	s.UnavailableReplicas = max(0, sumOf(v.all, replicasOf)-s.AvailableReplicas)
	s.TerminatingReplicas = ptr.To(sumOf(v.all, func(r *appsv1.ReplicaSet) int32 { return ptr.Deref(r.Status.TerminatingReplicas, 0) }))
	if v.current != nil {
		s.UpdatedReplicas = v.current.Status.Replicas
	}
	return s
}

// status is what to report, and when to look again because a deadline may pass; created is the set this step makes, if any.
func (v *rollout) status(created *appsv1.ReplicaSet) (appsv1.DeploymentStatus, time.Duration) {
	s := v.counts()
	for _, c := range v.d.Status.Conditions {
		s.Conditions = append(s.Conditions, *c.DeepCopy())
	}
	if s.AvailableReplicas >= wanted(v.d)-maxUnavailable(v.d) {
		setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinAvailable, "Deployment has minimum availability.", v.now)
	} else {
		setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonMinUnavailable, "Deployment does not have minimum availability.", v.now)
	}
	v.reportFailure(&s)
	if !hasProgressDeadline(v.d) {
		removeCondition(&s, appsv1.DeploymentProgressing)
		return s, 0
	}
	if v.d.DeletionTimestamp == nil {
		v.reportPause(&s)
		v.reportSet(&s, created)
	}
	if !v.d.Spec.Paused {
		v.reportProgress(&s)
	}
	return s, v.deadlineIn(s)
}

// reportFailure hands up what keeps a set from its pods; the present set's trouble comes first.
func (v *rollout) reportFailure(s *appsv1.DeploymentStatus) {
	sets := v.all
	if v.current != nil {
		sets = append([]*appsv1.ReplicaSet{v.current}, sets...)
	}
	for _, set := range sets {
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				setCondition(s, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message, v.now)
				return
			}
		}
	}
	removeCondition(s, appsv1.DeploymentReplicaFailure)
}

// reportPause stops and restarts the clock of the progress deadline.
func (v *rollout) reportPause(s *appsv1.DeploymentStatus) {
	c := condition(s, appsv1.DeploymentProgressing)
	paused := c != nil && c.Reason == reasonPaused
	switch {
	case c != nil && c.Reason == reasonTimedOut:
	case v.d.Spec.Paused && !paused:
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused", v.now)
	case !v.d.Spec.Paused && paused:
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed", v.now)
	}
}

func (v *rollout) reportSet(s *appsv1.DeploymentStatus, created *appsv1.ReplicaSet) {
	switch {
	case created != nil:
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonNewSet, fmt.Sprintf("Created new replica set %q", created.Name), v.now)
	case v.current != nil && condition(s, appsv1.DeploymentProgressing) == nil:
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFoundSet, fmt.Sprintf("Found new replica set %q", v.current.Name), v.now)
	}
}

func (v *rollout) reportProgress(s *appsv1.DeploymentStatus) {
	c := condition(s, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonSetAvailable && s.Replicas == s.UpdatedReplicas {
		return // what comes after completion (a node lost, a scaling) is not the rollout's progress
	}
	subject := fmt.Sprintf("Deployment %q", v.d.Name)
	if v.current != nil {
		subject = fmt.Sprintf("ReplicaSet %q", v.current.Name)
	}
	switch {
	case completeStatus(v.d, *s):
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetAvailable, subject+" has successfully progressed.", v.now)
	case progressed(v.d.Status, *s):
		since := metav1.NewTime(v.now)
		if c != nil && c.Status == corev1.ConditionTrue {
			since = c.LastTransitionTime
		}
		// Set anew, so that the deadline counts from this progress.
		removeCondition(s, appsv1.DeploymentProgressing)
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetUpdated, subject+" is progressing.", v.now)
		condition(s, appsv1.DeploymentProgressing).LastTransitionTime = since
	case v.timedOut(c):
		setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.", v.now)
	}
}

func completeStatus(d *appsv1.Deployment, s appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas == wanted(d) && s.Replicas == wanted(d) && s.AvailableReplicas == wanted(d) && s.ObservedGeneration >= d.Generation
}

func progressed(was, is appsv1.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas ||
		is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

func (v *rollout) deadline(c *appsv1.DeploymentCondition) time.Time {
	return c.LastUpdateTime.Add(time.Duration(*v.d.Spec.ProgressDeadlineSeconds) * time.Second)
}

func (v *rollout) timedOut(c *appsv1.DeploymentCondition) bool {
	switch {
	case c == nil || c.Reason == reasonSetAvailable:
		return false
	case c.Reason == reasonTimedOut:
		return true
	}
	return v.deadline(c).Before(v.now)
}

// deadlineIn is how long until the progress deadline can pass; 0: it does not run.
func (v *rollout) deadlineIn(s appsv1.DeploymentStatus) time.Duration {
	c := condition(&s, appsv1.DeploymentProgressing)
	if c == nil || v.d.Spec.Paused || c.Reason == reasonTimedOut || completeStatus(v.d, s) ||
		(c.Reason == reasonSetAvailable && s.Replicas == s.UpdatedReplicas) {
		return 0
	}
	return max(v.deadline(c).Sub(v.now), 0) + progressDeadlineMargin
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition replaces the condition unless status and reason are what they were.
func setCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) {
	at := metav1.NewTime(now)
	c := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: at, LastTransitionTime: at}
	if was := condition(s, t); was != nil {
		if was.Status == status && was.Reason == reason {
			return
		}
		if was.Status == status {
			c.LastTransitionTime = was.LastTransitionTime
		}
	}
	removeCondition(s, t)
	s.Conditions = append(s.Conditions, c)
}

func removeCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}
