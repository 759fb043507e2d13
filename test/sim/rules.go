package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"mgr/fsm"
)

// replay walks through the history and holds what the rules are about as it was at each revision.
type replay struct {
	w        *world
	nodes    map[types.UID]string              // of pods that were ever bound
	active   map[types.UID]map[string]struct{} // active pods by the UID of their ReplicaSet
	allowed  map[types.UID]int32               // most replicas that a ReplicaSet was ever to have
	sets     map[string]string                 // ReplicaSet by Deployment UID and template hash
	ips      map[string]string                 // service by cluster IP
	ports    map[string]string                 // service by node port
	services map[string]*corev1.Service
}

// checkRules replays the whole history.
func (w *world) checkRules(events []*event) {
	r := &replay{w: w, nodes: map[types.UID]string{}, active: map[types.UID]map[string]struct{}{}, allowed: map[types.UID]int32{},
		sets: map[string]string{}, ips: map[string]string{}, ports: map[string]string{}, services: map[string]*corev1.Service{}}
	for _, e := range events {
		switch e.resource {
		case "pods":
			decode(w, e, r.pod)
		case "replicasets.apps":
			decode(w, e, r.replicaSet)
		case "services":
			decode(w, e, r.service)
		}
	}
}

func decode[T any](w *world, e *event, step func(*event, *T)) {
	o := new(T)
	if err := json.Unmarshal(e.Object.Data, o); err != nil {
		w.broke("revision %d: %s is no JSON: %v", e.Revision, e.Object.Key, err)
		return
	}
	step(e, o)
}

// pod: bound once and for ever; never more of a ReplicaSet than it was ever to have.
func (r *replay) pod(e *event, p *corev1.Pod) {
	if was := r.nodes[p.UID]; was != "" && was != p.Spec.NodeName {
		r.w.broke("revision %d: pod %s was bound to %s, and is now on %q", e.Revision, p.Name, was, p.Spec.NodeName)
	}
	r.nodes[p.UID] = p.Spec.NodeName
	owner := metav1.GetControllerOf(p)
	if owner == nil || owner.Kind != "ReplicaSet" {
		return
	}
	pods := r.active[owner.UID]
	if pods == nil {
		pods = map[string]struct{}{}
		r.active[owner.UID] = pods
	}
	if e.Type == fsm.Deleted || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		delete(pods, p.Name)
		return
	}
	pods[p.Name] = struct{}{}
	if e.Type == fsm.Added && len(pods) > int(r.allowed[owner.UID]) {
		r.w.broke("revision %d: ReplicaSet %s was never to have more than %d pods, and has %d with %s", e.Revision, owner.Name, r.allowed[owner.UID], len(pods), p.Name)
	}
}

// replicaSet: one for each template of a Deployment.
func (r *replay) replicaSet(e *event, s *appsv1.ReplicaSet) {
	if s.Spec.Replicas != nil {
		r.allowed[s.UID] = max(r.allowed[s.UID], *s.Spec.Replicas)
	}
	owner := metav1.GetControllerOf(s)
	if owner == nil {
		return
	}
	key := string(owner.UID) + "/" + s.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	switch other := r.sets[key]; {
	case e.Type == fsm.Deleted:
		delete(r.sets, key)
	case other != "" && other != s.Name:
		r.w.broke("revision %d: ReplicaSets %s and %s are of one template of Deployment %s", e.Revision, other, s.Name, owner.Name)
	default:
		r.sets[key] = s.Name
	}
}

// service: cluster IPs and node ports are given once.
func (r *replay) service(e *event, s *corev1.Service) {
	if old := r.services[s.Name]; old != nil {
		if r.ips[old.Spec.ClusterIP] == s.Name {
			delete(r.ips, old.Spec.ClusterIP)
		}
		for _, p := range old.Spec.Ports {
			delete(r.ports, fmt.Sprint(p.NodePort, p.Protocol))
		}
		delete(r.services, s.Name)
	}
	if e.Type == fsm.Deleted {
		return
	}
	r.services[s.Name] = s
	if ip := s.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		if other := r.ips[ip]; other != "" {
			r.w.broke("revision %d: services %s and %s have the cluster IP %s", e.Revision, other, s.Name, ip)
		}
		r.ips[ip] = s.Name
	}
	for _, p := range s.Spec.Ports {
		key := fmt.Sprint(p.NodePort, p.Protocol)
		if other := r.ports[key]; other != "" && p.NodePort != 0 {
			r.w.broke("revision %d: services %s and %s have the node port %s", e.Revision, other, s.Name, key)
		}
		if p.NodePort != 0 {
			r.ports[key] = s.Name
		}
	}
}

// settled says what in a state is not yet as it must be in the end; "" when all is.
func settled(s *fsm.State) string {
	var pods []*corev1.Pod
	for o := range s.Resource("pods").List("", "") {
		p := &corev1.Pod{}
		if err := json.Unmarshal(o.Data, p); err != nil {
			return err.Error()
		}
		pods = append(pods, p)
		switch {
		case p.DeletionTimestamp != nil:
			return "pod " + p.Name + " is being deleted"
		case p.Spec.NodeName == "":
			return "pod " + p.Name + " is not bound"
		case !podReady(p):
			return "pod " + p.Name + " on " + p.Spec.NodeName + " is not ready"
		}
	}
	for o := range s.Resource("nodes").List("", "") {
		n := &corev1.Node{}
		if err := json.Unmarshal(o.Data, n); err != nil {
			return err.Error()
		}
		if len(n.Spec.Taints) > 0 {
			return "node " + n.Name + " has taints"
		}
	}
	if what := unsettledDeployments(s, pods); what != "" {
		return what
	}
	return unsettledEndpoints(s, pods)
}

func unsettledDeployments(s *fsm.State, pods []*corev1.Pod) string {
	owned := map[string]int32{} // pods by ReplicaSet
	for _, p := range pods {
		if owner := metav1.GetControllerOf(p); owner != nil {
			owned[owner.Name]++
		}
	}
	have := map[types.UID]int32{} // pods by Deployment
	for o := range s.Resource("replicasets.apps").List("", "") {
		set := &appsv1.ReplicaSet{}
		if err := json.Unmarshal(o.Data, set); err != nil {
			return err.Error()
		}
		owner := metav1.GetControllerOf(set)
		if owner == nil || s.Get(fsm.Key{Resource: "deployments.apps", Namespace: set.Namespace, Name: owner.Name}) == nil {
			return "ReplicaSet " + set.Name + " has no Deployment"
		}
		if owned[set.Name] != *set.Spec.Replicas || set.Status.AvailableReplicas != *set.Spec.Replicas {
			return fmt.Sprintf("ReplicaSet %s is to have %d pods, has %d, and says %d are available", set.Name, *set.Spec.Replicas, owned[set.Name], set.Status.AvailableReplicas)
		}
		have[owner.UID] += owned[set.Name]
	}
	for o := range s.Resource("deployments.apps").List("", "") {
		d := &appsv1.Deployment{}
		if err := json.Unmarshal(o.Data, d); err != nil {
			return err.Error()
		}
		want := *d.Spec.Replicas
		if d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedReplicas != want || d.Status.AvailableReplicas != want || d.Status.Replicas != want || have[d.UID] != want {
			return fmt.Sprintf("Deployment %s is to have %d pods, has %d, and its status is %+v", d.Name, want, have[d.UID], d.Status)
		}
	}
	return ""
}

// unsettledEndpoints: the EndpointSlices of each service name the ready pods that it selects.
func unsettledEndpoints(s *fsm.State, pods []*corev1.Pod) string {
	slicesOf := map[string][]string{}
	for o := range s.Resource("endpointslices.discovery.k8s.io").List(namespace, "") {
		slice := &discoveryv1.EndpointSlice{}
		if err := json.Unmarshal(o.Data, slice); err != nil {
			return err.Error()
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				slicesOf[slice.Labels[discoveryv1.LabelServiceName]] = append(slicesOf[slice.Labels[discoveryv1.LabelServiceName]], e.Addresses...)
			}
		}
	}
	for o := range s.Resource("services").List(namespace, "") {
		svc := &corev1.Service{}
		if err := json.Unmarshal(o.Data, svc); err != nil {
			return err.Error()
		}
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		var want []string
		for _, p := range pods {
			if p.Namespace == namespace && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels)) {
				want = append(want, p.Status.PodIP)
			}
		}
		got := slicesOf[svc.Name]
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Sprintf("service %s has the endpoints %s, not %s", svc.Name, strings.Join(got, " "), strings.Join(want, " "))
		}
	}
	return ""
}
