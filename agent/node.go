package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/tools/cache"
)

const (
	// KubeletVersion is what the node reports itself to be compatible with.
	KubeletVersion = "v1.37.2+mgr"

	leaseEvery    = time.Second
	leaseDuration = 4 // seconds
	nodeEvery     = 10 * time.Second
)

// self is the node's object as last seen; nil before the first sight.
func (a *Agent) self() *v1.Node {
	o, ok, err := a.node.GetStore().GetByKey(a.cfg.NodeName)
	if err != nil || !ok {
		return nil
	}
	return o.(*v1.Node)
}

// nodeRef is the node in events, as kubelet names it.
func (a *Agent) nodeRef() *v1.ObjectReference {
	return &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: a.cfg.NodeName, UID: types.UID(a.cfg.NodeName)}
}

func (a *Agent) nodeEvent(kind, reason, format string, args ...any) {
	a.recorder.Eventf(a.nodeRef(), kind, reason, format, args...)
}

// runNode registers the node and keeps its object true. A node at rest writes nothing: being alive is the lease's matter.
func (a *Agent) runNode(ctx context.Context) {
	_, err := a.node.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { a.stir() }, UpdateFunc: func(_, _ any) { a.stir() }, DeleteFunc: func(any) { a.stir() },
	})
	if err != nil {
		a.log.Error("watching the node's object", "err", err)
		return
	}
	a.nodeEvent(v1.EventTypeNormal, "Starting", "Starting the agent of this node.")
	tries := 0
	for {
		wait := nodeEvery
		if err := a.syncNode(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("the node's object is not up to date", "err", err)
			wait = grow(200*time.Millisecond, 5*time.Second, tries)
			tries++
		} else {
			tries = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-a.stirred:
		case <-time.After(wait):
		}
	}
}

// stir makes runNode look at once.
func (a *Agent) stir() {
	select {
	case a.stirred <- struct{}{}:
	default:
	}
}

// syncNode creates the object or patches what differs: our labels in its metadata, and its status.
func (a *Agent) syncNode(ctx context.Context) error {
	health := a.health(ctx)
	a.resources.Store(measureResources(&a.cfg, a.evictor.thresholds, a.room()))
	node := a.self()
	if node == nil {
		if !a.node.HasSynced() {
			got, err := a.client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			if err == nil {
				node = got
			}
		}
		if node == nil {
			return a.register(ctx, health)
		}
	}
	want := node.DeepCopy()
	for k, v := range a.labels() {
		if want.Labels == nil {
			want.Labels = map[string]string{}
		}
		want.Labels[k] = v
	}
	if !maps.Equal(node.Labels, want.Labels) {
		if err := a.patchNode(ctx, node, want, ""); err != nil {
			return err
		}
	}
	a.fillStatus(&want.Status, health, time.Now())
	if equality.Semantic.DeepEqual(node.Status, want.Status) {
		return nil
	}
	// Without heartbeats the masters call the node lost; contradicting them at once would start a quarrel that nobody wins.
	renewed := a.renewed.Load()
	if renewed == 0 {
		return errors.New("its lease was not renewed yet")
	}
	if silent := time.Since(time.Unix(0, renewed)); silent > leaseDuration*time.Second {
		return fmt.Errorf("its lease was not renewed for %s", silent.Round(time.Second))
	}
	if err := a.patchNode(ctx, node, want, "status"); err != nil {
		return err
	}
	a.tellOfNode(&node.Status, &want.Status)
	return nil
}

// tellOfNode makes the events of what has changed.
func (a *Agent) tellOfNode(before, now *v1.NodeStatus) {
	if was, is := before.NodeInfo.BootID, now.NodeInfo.BootID; was != "" && is != "" && was != is {
		a.nodeEvent(v1.EventTypeWarning, "Rebooted", "Node %s has been rebooted, boot id: %s", a.cfg.NodeName, is)
	}
	for i := range now.Conditions {
		c := &now.Conditions[i]
		reasons, ours := conditionEvents[c.Type]
		old := slices.IndexFunc(before.Conditions, func(o v1.NodeCondition) bool { return o.Type == c.Type })
		if !ours || old >= 0 && before.Conditions[old].Status == c.Status {
			continue
		}
		reason := reasons.otherwise
		if c.Status == v1.ConditionTrue {
			reason = reasons.whenTrue
		}
		a.nodeEvent(v1.EventTypeNormal, reason, "Node %s status is now: %s", a.cfg.NodeName, reason)
	}
}

// conditionEvents are the reasons of the events when a condition changes, as kubelet's.
var conditionEvents = map[v1.NodeConditionType]struct{ whenTrue, otherwise string }{
	v1.NodeReady:          {"NodeReady", "NodeNotReady"},
	v1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
	v1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
	v1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
}

func (a *Agent) patchNode(ctx context.Context, from, to *v1.Node, sub string) error {
	before, err := json.Marshal(from)
	if err != nil {
		return fmt.Errorf("encoding the node: %w", err)
	}
	after, err := json.Marshal(to)
	if err != nil {
		return fmt.Errorf("encoding the node: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err != nil {
		return fmt.Errorf("comparing nodes: %w", err)
	}
	var subs []string
	if sub != "" {
		subs = []string{sub}
	}
	_, err = a.client.CoreV1().Nodes().Patch(ctx, from.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, subs...)
	return err
}

func (a *Agent) register(ctx context.Context, health []condition) error {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.cfg.NodeName, Labels: a.labels()}, Spec: v1.NodeSpec{Taints: a.cfg.Taints}}
	a.fillStatus(&node.Status, health, time.Now())
	_, err := a.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err == nil {
		a.log.Info("node registered", "node", a.cfg.NodeName)
		a.tellOfNode(&v1.NodeStatus{}, &node.Status)
	}
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// fillStatus sets what the agent owns in the status; conditions of others and extended resources stay.
func (a *Agent) fillStatus(s *v1.NodeStatus, health []condition, now time.Time) {
	a.fillResources(s)
	s.Addresses = nil
	for _, ip := range a.cfg.NodeIPs {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: a.cfg.NodeName})
	info := a.nodeInfo()
	if v := health[0].version; v != "" {
		info.ContainerRuntimeVersion = v
	} else {
		info.ContainerRuntimeVersion = s.NodeInfo.ContainerRuntimeVersion
	}
	s.NodeInfo = info
	s.Images = a.images.forStatus()
	a.describeHandlers(s)
	for _, h := range health {
		c := v1.NodeCondition{Type: h.kind, Status: h.status, Reason: h.reason, Message: h.message,
			LastHeartbeatTime: seconds(now), LastTransitionTime: seconds(now)}
		setNodeCondition(s, c)
	}
}

func setNodeCondition(s *v1.NodeStatus, c v1.NodeCondition) {
	for i, old := range s.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
			if old.Reason == c.Reason && old.Message == c.Message {
				c.LastHeartbeatTime = old.LastHeartbeatTime
			}
		}
		s.Conditions[i] = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

// fillResources writes the node's own resources. Those that others have added stay, and may be given to pods as a whole unless
// somebody says otherwise; what they have taken from the capacity again goes from both.
func (a *Agent) fillResources(s *v1.NodeStatus) {
	room := a.room()
	capacity, allocatable := v1.ResourceList{}, v1.ResourceList{}
	for name, q := range s.Capacity {
		capacity[name], allocatable[name] = q, q
		if told, ok := s.Allocatable[name]; ok {
			allocatable[name] = told
		}
	}
	plugged, usable := a.devices.Resources()
	maps.Copy(capacity, plugged)
	maps.Copy(allocatable, usable)
	maps.Copy(capacity, room.Capacity)
	maps.Copy(allocatable, room.Allocatable)
	s.Capacity, s.Allocatable = capacity, allocatable
}
