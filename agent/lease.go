package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// A name belongs to one key (api/join refuses another machine that joins under it), so two agents of one name have one data
// directory, copied: a machine that was cloned, a disk that was put into another one. Both would start the same pods. The node's
// lease says which agent holds the node; the other one starts nothing.

// annotationAgent, on the lease, is the identity of the agent that renews it.
const annotationAgent = "mgr.io/agent"

// errTakenOver ends an agent: while it could not renew the lease, another one began to.
var errTakenOver = errors.New("another agent runs as this node, with a copy of this agent's data directory")

// identity tells two agents of one name apart: it is the same after a restart of the agent, not on another machine and not in
// another directory.
func identity(dir string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("finding out which machine this is: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("finding out which machine this is: %w", err)
	}
	sum := sha256.Sum256([]byte(string(boot) + dir))
	return hex.EncodeToString(sum[:6]) + "@" + host, nil
}

// otherHolder is the machine of the agent that renewed the lease, if that was not this agent; "" if it was, or nobody knows.
func (a *Agent) otherHolder(l *coordinationv1.Lease) string {
	holder := l.Annotations[annotationAgent]
	if holder == "" || holder == a.identity {
		return ""
	}
	_, host, _ := strings.Cut(holder, "@")
	return host
}

// complainEvery is how often an agent says that it may not begin.
const complainEvery = 30 * time.Second

// awaitName returns when no other agent runs as this node: at once, as a rule. A lease that another one holds is watched for as
// long as it lasts; if it is renewed meanwhile, the other agent is alive, and this one waits for its end. Without an answer from the
// masters it returns, too: pods that are known from before must not wait for them.
func (a *Agent) awaitName(ctx context.Context) {
	tick := time.NewTicker(leaseEvery / 2)
	defer tick.Stop()
	version, since, rival := "", time.Now(), ""
	var complained time.Time
	for {
		ask, cancel := context.WithTimeout(ctx, patience)
		l, err := a.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ask, a.cfg.NodeName, metav1.GetOptions{})
		cancel()
		switch {
		case err != nil && rival == "":
			return
		case err != nil && !apierrors.IsNotFound(err):
			since = time.Now() // nothing is known; a new leader has no leases for a moment
		case err == nil && a.otherHolder(l) == "":
			return
		case err == nil && l.ResourceVersion != version:
			if version != "" {
				rival = a.otherHolder(l)
			}
			version, since = l.ResourceVersion, time.Now()
		}
		if time.Since(since) > leaseDuration*time.Second {
			a.silent = version
			return
		}
		if rival != "" && time.Since(complained) > complainEvery {
			complained = time.Now()
			a.log.Error("another agent runs as this node; nothing is started here while it does",
				"node", a.cfg.NodeName, "machine", rival, "do", "remove the data directory here and join under another name")
			a.nodeEvent(v1.EventTypeWarning, "DuplicateNode", "An agent on machine %s with a copy of the data directory tries to run as this node", a.host())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) host() string { _, host, _ := strings.Cut(a.identity, "@"); return host }

// runLease says every second that the node is alive. The lease lives in the leader's memory. It returns an error when another agent
// has taken the node over.
func (a *Agent) runLease(ctx context.Context) error {
	every := time.NewTicker(leaseEvery)
	defer every.Stop()
	var lease *coordinationv1.Lease
	for {
		next, err := a.renew(ctx, lease)
		if err == nil {
			lease = next
			a.renewed.Store(time.Now().UnixNano())
		} else if errors.Is(err, errTakenOver) {
			return err
		} else {
			lease = nil // the client's answer to an error is an empty object, not none
			if ctx.Err() == nil {
				a.log.Debug("renewing the node's lease", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// renew updates the lease it is given, or finds or makes it; nil after an error means to begin anew.
func (a *Agent) renew(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	// A renewal that takes longer than the lease lasts is worthless.
	ctx, cancel := context.WithTimeout(ctx, leaseDuration*time.Second)
	defer cancel()
	leases := a.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	if lease == nil {
		got, err := leases.Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return leases.Create(ctx, a.fillLease(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: a.cfg.NodeName, Namespace: v1.NamespaceNodeLease}}), metav1.CreateOptions{})
		case err != nil:
			return nil, err
		}
		if other := a.otherHolder(got); other != "" && got.ResourceVersion != a.silent {
			return nil, fmt.Errorf("%w: on machine %s", errTakenOver, other)
		}
		lease = got
	}
	return leases.Update(ctx, a.fillLease(lease), metav1.UpdateOptions{})
}

func (a *Agent) fillLease(l *coordinationv1.Lease) *coordinationv1.Lease {
	l = l.DeepCopy()
	metav1.SetMetaDataAnnotation(&l.ObjectMeta, annotationAgent, a.identity)
	l.Spec.HolderIdentity = ptr.To(a.cfg.NodeName)
	l.Spec.LeaseDurationSeconds = ptr.To[int32](leaseDuration)
	l.Spec.RenewTime = ptr.To(metav1.NowMicro())
	if node := a.self(); node != nil && len(l.OwnerReferences) == 0 {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return l
}
