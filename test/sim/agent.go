package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// agent is a node: it says that it is alive, runs the pods bound to it, and ends those that are deleted.
type agent struct {
	*client
	node string
	pods map[string]*corev1.Pod // by UID
	ips  *atomic.Int64
}

const (
	leaseEvery = time.Second
	podStep    = 150 * time.Millisecond // how long an agent needs to start or end pods
	leasePath  = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
)

// runAgent registers the node and lives until the work ends.
func (w *world) runAgent(number int, ips *atomic.Int64) func(context.Context, *client) {
	return func(ctx context.Context, c *client) {
		a := &agent{client: c, node: "node-" + strconv.Itoa(number), ips: ips}
		for ctx.Err() == nil && !a.register(ctx) {
			a.sleep(ctx, 50*time.Millisecond, 500*time.Millisecond)
		}
		w.agents.add(w, a.name+"-lease", uint64(1000+number), func(ctx context.Context, c *client) {
			heart := &agent{client: c, node: a.node}
			heart.beat(ctx)
		})
		for ctx.Err() == nil {
			a.follow(ctx)
			a.sleep(ctx, 10*time.Millisecond, 200*time.Millisecond)
		}
	}
}

func (a *agent) nodeStatus() corev1.NodeStatus {
	size := corev1.ResourceList{corev1.ResourceCPU: cpus, corev1.ResourceMemory: memory, corev1.ResourcePods: mostPods}
	return corev1.NodeStatus{Capacity: size, Allocatable: size, Conditions: []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
	}}}
}

func (a *agent) register(ctx context.Context) bool {
	code, _, err := a.call(ctx, a.anywhere(), http.MethodPost, "/api/v1/nodes", nil, &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: a.node, Labels: map[string]string{corev1.LabelHostname: a.node}}, Status: a.nodeStatus(),
	})
	if err != nil || code >= 300 && code != http.StatusConflict {
		return false
	}
	return a.ready(ctx)
}

// ready writes that the node is ready.
func (a *agent) ready(ctx context.Context) bool {
	code, _, err := a.call(ctx, a.anywhere(), http.MethodPatch, "/api/v1/nodes/"+a.node+"/status", nil, map[string]any{"status": a.nodeStatus()})
	return err == nil && code == http.StatusOK
}

// beat renews the lease, and says that the node is ready when somebody has written that it is not.
func (a *agent) beat(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		lease := map[string]any{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": map[string]any{"name": a.node, "namespace": "kube-node-lease"},
			"spec":     map[string]any{"holderIdentity": a.node, "leaseDurationSeconds": 4, "renewTime": metav1.NowMicro()}}
		addr := a.anywhere()
		code, _, err := a.call(ctx, addr, http.MethodPatch, leasePath+"/"+a.node, nil, lease)
		if err == nil && code == http.StatusNotFound {
			_, _, _ = a.call(ctx, addr, http.MethodPost, leasePath, nil, lease) // the next beat looks again
		}
		if i%2 == 0 {
			a.look(ctx)
		}
		a.sleep(ctx, leaseEvery, leaseEvery)
	}
}

func (a *agent) look(ctx context.Context) {
	var node corev1.Node
	if a.get(ctx, "/api/v1/nodes/"+a.node, &node) != nil {
		return
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			a.ready(ctx)
		}
	}
}

// get reads an object as it is, as some master has it.
func (a *agent) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	resp, err := a.send(ctx, a.anywhere(), http.MethodGet, path, url.Values{"resourceVersion": {"0"}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d", path, resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// follow watches the node's pods at one master until the watch ends.
func (a *agent) follow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(5+a.random.IntN(30))*time.Second)
	defer cancel()
	resp, err := a.send(ctx, a.anywhere(), http.MethodGet, "/api/v1/pods", url.Values{"watch": {"1"}, "fieldSelector": {"spec.nodeName=" + a.node}}, nil)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	a.pods = map[string]*corev1.Pod{}
	frames := make(chan frame[corev1.Pod])
	done := make(chan struct{})
	go func() {
		defer close(done)
		readPods(ctx, resp, frames)
	}()
	defer func() { cancel(); resp.Body.Close(); <-done }()
	work := time.NewTicker(100 * time.Millisecond) // how long a step of a pod takes
	defer work.Stop()
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				return
			}
			if f.Type == "DELETED" {
				delete(a.pods, string(f.Object.UID))
			} else {
				a.pods[string(f.Object.UID)] = &f.Object
			}
		case <-work.C:
			a.step(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func readPods(ctx context.Context, resp *http.Response, frames chan<- frame[corev1.Pod]) {
	defer close(frames)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 4<<20)
	for lines.Scan() {
		var f frame[corev1.Pod]
		if json.Unmarshal(lines.Bytes(), &f) != nil || f.Type == "ERROR" || f.Type == "BOOKMARK" {
			return
		}
		select {
		case frames <- f:
		case <-ctx.Done():
			return
		}
	}
}

// step brings the pods one step further.
func (a *agent) step(ctx context.Context) {
	for uid, p := range a.pods {
		path := "/api/v1/namespaces/" + p.Namespace + "/pods/" + p.Name
		switch {
		case p.DeletionTimestamp != nil:
			code, _, err := a.call(ctx, a.anywhere(), http.MethodDelete, path, nil, map[string]any{"apiVersion": "v1", "kind": "DeleteOptions",
				"gracePeriodSeconds": 0, "preconditions": map[string]any{"uid": uid}})
			if err == nil && (code < 300 || code == http.StatusNotFound || code == http.StatusConflict) {
				delete(a.pods, uid)
			}
		case p.Status.Phase != corev1.PodRunning || !podReady(p):
			ip := p.Status.PodIP
			if ip == "" {
				n := a.ips.Add(1)
				ip = fmt.Sprintf("10.42.%d.%d", n/250, 1+n%250)
			}
			code, _, err := a.call(ctx, a.anywhere(), http.MethodPatch, path+"/status", nil, map[string]any{
				"metadata": map[string]any{"uid": uid},
				"status": map[string]any{"phase": "Running", "podIP": ip, "podIPs": []any{map[string]any{"ip": ip}}, "conditions": []any{
					map[string]any{"type": "Ready", "status": "True", "lastTransitionTime": metav1.Now()},
					map[string]any{"type": "PodScheduled", "status": "True", "lastTransitionTime": metav1.Now()},
				}},
			})
			if err == nil && code == http.StatusOK {
				p.Status.Phase, p.Status.PodIP = corev1.PodRunning, ip
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			}
		}
	}
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
