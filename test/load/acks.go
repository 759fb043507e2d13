package load

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
)

// Acks are the writes that were acknowledged, by the name of the ConfigMap that each made, and those that were not. The zero value
// is ready.
type Acks struct {
	Namespace string
	Value     int           // bytes that each object carries
	Every     time.Duration // at most one write of a writer in so much time; 0: as fast as they go

	mu       sync.Mutex
	at       map[string]time.Time
	failures []string
}

// Count of acknowledged writes so far.
func (a *Acks) Count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

// Failures says of each write that was not acknowledged why.
func (a *Acks) Failures() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.failures)
}

// Write makes one object after the other at a master until ctx ends. A request under way is ended by its answer, not by ctx.
func (a *Acks) Write(ctx context.Context, at kubernetes.Interface, prefix string) {
	for i := 0; ctx.Err() == nil; i++ {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i)}}
		if a.Value > 0 {
			cm.Data = map[string]string{"v": string(make([]byte, a.Value))}
		}
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), Patience)
		_, err := at.CoreV1().ConfigMaps(a.Namespace).Create(ask, cm, metav1.CreateOptions{})
		cancel()
		a.note(cm.Name, err)
		if err != nil {
			cluster.Pause(ctx, 5*time.Millisecond)
		} else if a.Every > 0 {
			cluster.Pause(ctx, a.Every)
		}
	}
}

func (a *Acks) note(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.failures = append(a.failures, fmt.Sprintf("%s: %v", name, err))
		return
	}
	if a.at == nil {
		a.at = map[string]time.Time{}
	}
	a.at[name] = time.Now()
}

// Gap is the longest time without an acknowledged write.
func (a *Acks) Gap() (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	times := slices.SortedFunc(maps.Values(a.at), time.Time.Compare)
	for i := 1; i < len(times); i++ {
		longest = max(longest, times[i].Sub(times[i-1]))
	}
	return longest
}

// Lost lists a master's objects and returns the acknowledged ones that it has not.
func (a *Acks) Lost(ctx context.Context, at kubernetes.Interface) ([]string, error) {
	a.mu.Lock()
	before := maps.Clone(a.at) // the list has what was acknowledged before it was asked for
	a.mu.Unlock()
	list, err := at.CoreV1().ConfigMaps(a.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list what was acknowledged: %w", err)
	}
	have := map[string]bool{}
	for _, cm := range list.Items {
		have[cm.Name] = true
	}
	var lost []string
	for name := range before {
		if !have[name] {
			lost = append(lost, name)
		}
	}
	slices.Sort(lost)
	return lost, nil
}
