package auth

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// An administrator who removes a master writes its id into a ConfigMap in kube-system, with the time as its value. As long as it
// stands there, and it has left the quorum, no certificate with that id is taken for a master's; a server token for the same id takes it out again. A master
// that was only cleaned up, because it was away, is not named there and comes back by itself.
const (
	RemovedMastersNamespace = "kube-system"
	RemovedMastersName      = "mgr-removed-masters"
)

var configMaps = schema.GroupResource{Resource: "configmaps"}

// RemovedMasters are the ids of removed masters, as this peer knows them, with the time of each removal.
func RemovedMasters(ctx context.Context, r Reader) (map[string]string, error) {
	list, _, err := lookup[*corev1.ConfigMap](ctx, r, configMaps, RemovedMastersNamespace, RemovedMastersName)
	if err != nil {
		return nil, fmt.Errorf("looking up which masters were removed: %w", err)
	}
	if list == nil {
		return nil, nil
	}
	return list.Data, nil
}

func (a *Authenticator) checkMaster(ctx context.Context, id string) error {
	if a.votes != nil && a.votes(id) {
		return nil
	}
	return CheckMaster(ctx, a.Nodes.reader, id)
}

// CheckMaster refuses the id of a removed master. The text is for that master's log.
func CheckMaster(ctx context.Context, r Reader, id string) error {
	removed, err := RemovedMasters(ctx, r)
	if err != nil {
		return err
	}
	if at, ok := removed[id]; ok {
		return fmt.Errorf("master %q was removed from this cluster at %s: delete its data directory; it can join as a new one with a server token "+
			"(mgr token create --role server)", id, at)
	}
	return nil
}
