package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// deployments rolls every Deployment out over ReplicaSets, one for each pod template it has had.
type deployments struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        cache.Indexer
	pods        cache.Indexer
	events      record.EventRecorder
}

const deploymentWorkers = 5

func newDeployments(f informers.SharedInformerFactory, client kubernetes.Interface, events record.EventRecorder) Controller {
	sets, pods := f.Apps().V1().ReplicaSets().Informer(), f.Core().V1().Pods().Informer()
	c := &deployments{
		client: client, deployments: f.Apps().V1().Deployments().Lister(),
		sets: sets.GetIndexer(), pods: pods.GetIndexer(), events: events,
	}
	return Controller{
		Name:    "deployment",
		Workers: deploymentWorkers,
		Inputs: []Input{
			{Informer: f.Apps().V1().Deployments().Informer(), Keys: objectKey},
			{Informer: sets, Keys: c.keysOfSet},
			{Informer: pods, Keys: c.keysOfPod},
		},
		Outputs: []Output{
			{Resource: "deployments.apps", Field: "status"},
			{Resource: "deployments.apps", Field: "metadata.annotations[" + annotationRevision + "]"},
			{Resource: "replicasets.apps", Scope: "of Deployments"},
		},
		Reconcile: c.reconcile,
	}
}

func (c *deployments) keysOfSet(old, new any) []string {
	var keys []string
	for _, obj := range []any{old, new} {
		set, ok := obj.(*appsv1.ReplicaSet)
		if !ok {
			continue
		}
		if ref := controllerOf(set); ref != nil {
			if ref.Kind == deploymentKind.Kind {
				keys = append(keys, set.Namespace+"/"+ref.Name)
			}
			continue
		}
		inNamespace, err := c.deployments.Deployments(set.Namespace).List(labels.Everything())
		if err != nil {
			continue
		}
		for _, d := range inNamespace {
			if s, err := deploymentSelector(d); err == nil && s.Matches(labels.Set(set.Labels)) {
				keys = append(keys, d.Namespace+"/"+d.Name)
			}
		}
	}
	return keys
}

// keysOfPod wakes a Deployment that recreates when a pod of it has ended: it waits for the last one.
func (c *deployments) keysOfPod(old, new any) []string {
	was, _ := old.(*corev1.Pod)
	is, _ := new.(*corev1.Pod)
	if was == nil || (is != nil && podTerminal(is) == podTerminal(was)) {
		return nil
	}
	ref := controllerOf(was)
	if ref == nil {
		return nil
	}
	obj, exists, err := c.sets.GetByKey(was.Namespace + "/" + ref.Name)
	set, ok := obj.(*appsv1.ReplicaSet)
	if err != nil || !exists || !ok || set.UID != ref.UID {
		return nil
	}
	if owner := controllerOf(set); owner != nil && owner.Kind == deploymentKind.Kind {
		return []string{set.Namespace + "/" + owner.Name}
	}
	return nil
}

func deploymentSelector(d *appsv1.Deployment) (labels.Selector, error) {
	s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, err
	}
	if s.Empty() {
		return nil, errors.New("an empty selector selects all pods; a non-empty selector is required")
	}
	return s, nil
}

func (c *deployments) reconcile(ctx context.Context, key string) error {
	ns, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	d, err := c.deployments.Deployments(ns).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := deploymentSelector(d)
	if err != nil {
		c.events.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is not rolled out: %v", err)
		return c.writeStatus(ctx, d, func(s *appsv1.DeploymentStatus) { s.ObservedGeneration = d.Generation })
	}
	sets, err := c.claimSets(ctx, d, selector)
	if err != nil {
		return err
	}
	view := rollout{d: d, all: sets, now: time.Now()}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		if view.running, err = c.runningPods(sets); err != nil {
			return err
		}
	}
	plan := planRollout(view)
	if err := c.carryOut(ctx, d, &plan); err != nil {
		return err
	}
	if plan.look > 0 {
		return Again(plan.look)
	}
	return nil
}

func (c *deployments) claimSets(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	candidates, err := indexed[*appsv1.ReplicaSet](c.sets, byController, string(d.UID), orphansOf(d.Namespace))
	if err != nil {
		return nil, err
	}
	return claim[*appsv1.ReplicaSet]{
		owner: d, kind: deploymentKind, selector: selector,
		live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		patch: func(ctx context.Context, set *appsv1.ReplicaSet, patch []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(set.Namespace).Patch(ctx, set.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}.Run(ctx, candidates)
}

// runningPods are the uids of the sets that have pods which have not ended.
func (c *deployments) runningPods(sets []*appsv1.ReplicaSet) (map[types.UID]bool, error) {
	running := map[types.UID]bool{}
	for _, set := range sets {
		pods, err := indexed[*corev1.Pod](c.pods, byController, string(set.UID))
		if err != nil {
			return nil, err
		}
		for _, p := range pods {
			running[set.UID] = running[set.UID] || !podTerminal(p)
		}
	}
	return running, nil
}

// carryOut makes what is planned true, then writes the annotation and the status that tell of it.
func (c *deployments) carryOut(ctx context.Context, d *appsv1.Deployment, plan *rolloutPlan) error {
	if plan.create != nil {
		if err := c.create(ctx, d, plan.create); err != nil {
			return err
		}
	}
	for _, ch := range plan.update {
		if _, err := c.client.AppsV1().ReplicaSets(d.Namespace).Update(ctx, ch.want, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update replica set %s: %w", ch.want.Name, err)
		}
		c.scaled(d, ch.want.Name, ptr.Deref(ch.found.Spec.Replicas, 1), ptr.Deref(ch.want.Spec.Replicas, 1))
	}
	for _, set := range plan.remove {
		err := c.client.AppsV1().ReplicaSets(d.Namespace).Delete(ctx, set.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(set.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove replica set %s of an old revision: %w", set.Name, err)
		}
	}
	if plan.revision != "" && d.Annotations[annotationRevision] != plan.revision && d.DeletionTimestamp == nil {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": d.UID, "annotations": map[string]string{annotationRevision: plan.revision}}})
		if err != nil {
			return err
		}
		d, err = c.client.AppsV1().Deployments(d.Namespace).Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("note the revision: %w", err)
		}
	}
	return c.writeStatus(ctx, d, func(s *appsv1.DeploymentStatus) { *s = plan.status })
}

func (c *deployments) scaled(d *appsv1.Deployment, set string, from, to int32) {
	switch {
	case from < to:
		c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from %d to %d", set, from, to)
	case from > to:
		c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled down replica set %s from %d to %d", set, from, to)
	}
}

// create makes the ReplicaSet of a new revision. Its name is a hash of the template: when it is taken by our own set
// (the cache was behind) all is well; by another, the hash is salted with one more collision.
func (c *deployments) create(ctx context.Context, d *appsv1.Deployment, set *appsv1.ReplicaSet) error {
	_, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, set, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.scaled(d, set.Name, 0, ptr.Deref(set.Spec.Replicas, 1))
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		found, err := c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("look at replica set %s, which exists: %w", set.Name, err)
		}
		if ref := controllerOf(found); ref != nil && ref.UID == d.UID && sameTemplate(&found.Spec.Template, &d.Spec.Template) {
			return nil
		}
		if err := c.writeStatus(ctx, d, func(s *appsv1.DeploymentStatus) { s.CollisionCount = ptr.To(ptr.Deref(s.CollisionCount, 0) + 1) }); err != nil {
			return err
		}
		return fmt.Errorf("replica set %s belongs to another template: trying another name", set.Name)
	}
	msg := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
	c.events.Event(d, corev1.EventTypeWarning, reasonSetCreateError, msg)
	if !hasProgressDeadline(d) {
		return fmt.Errorf("create replica set %s: %w", set.Name, err)
	}
	return errors.Join(fmt.Errorf("create replica set %s: %w", set.Name, err),
		c.writeStatus(ctx, d, func(s *appsv1.DeploymentStatus) {
			setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonSetCreateError, msg, time.Now())
		}))
}

// writeStatus writes what change makes of d's status, unless that is what it is already.
func (c *deployments) writeStatus(ctx context.Context, d *appsv1.Deployment, change func(*appsv1.DeploymentStatus)) error {
	want := d.DeepCopy()
	change(&want.Status)
	if equality.Semantic.DeepEqual(want.Status, d.Status) {
		return nil
	}
	_, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
