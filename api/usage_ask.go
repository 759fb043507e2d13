package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	// usageFresh is how long an agent's answer serves who asks for the same. It is short beside the time over which agents
	// measure, and long beside that between the many askers of a dashboard.
	usageFresh = 5 * time.Second
	// usagePatience is how long one node may take; one that has not been asked for a while measures for a second first.
	usagePatience = 5 * time.Second
	// usageAtOnce bounds how many nodes are asked at the same time.
	usageAtOnce = 64
	usageLimit  = 64 << 20 // bytes of one answer
)

// usageAsker asks agents what they measure:
//
//	GET /usage/node → metrics.k8s.io/v1beta1 NodeMetrics
//	GET /usage/pods → metrics.k8s.io/v1beta1 PodMetricsList
//
// Who asks for what another is asking for already shares that answer.
type usageAsker struct {
	reach func(node string) (http.RoundTripper, error)
	log   *slog.Logger
	mu    sync.Mutex
	last  map[usageKey]*usageAnswer
}

type usageKey struct{ node, path string }

type usageAnswer struct {
	done  chan struct{} // closed when the rest is known
	until time.Time
	value any
	err   error
}

func newUsageAsker(reach func(string) (http.RoundTripper, error), log *slog.Logger) *usageAsker {
	return &usageAsker{reach: reach, log: log, last: map[usageKey]*usageAnswer{}}
}

// nodes asks each of the nodes for its own use; those that do not answer are missing.
func (a *usageAsker) nodes(ctx context.Context, names []string) map[string]*metricsv1beta1.NodeMetrics {
	return askAll(ctx, a, names, "/usage/node", func() *metricsv1beta1.NodeMetrics { return &metricsv1beta1.NodeMetrics{} })
}

// pods asks each of the nodes for that of its pods.
func (a *usageAsker) pods(ctx context.Context, nodes map[string]bool) map[string]*metricsv1beta1.PodMetricsList {
	return askAll(ctx, a, slices.Collect(maps.Keys(nodes)), "/usage/pods", func() *metricsv1beta1.PodMetricsList { return &metricsv1beta1.PodMetricsList{} })
}

func askAll[T any](ctx context.Context, a *usageAsker, nodes []string, path string, empty func() *T) map[string]*T {
	ctx, cancel := context.WithTimeout(ctx, usagePatience)
	defer cancel()
	a.tidy()
	answers := make([]*T, len(nodes))
	var g errgroup.Group
	g.SetLimit(usageAtOnce)
	for i, node := range nodes {
		g.Go(func() error {
			got, err := a.shared(ctx, usageKey{node, path}, func() any { return empty() })
			if err != nil {
				a.log.Debug("a node does not say what it uses", "node", node, "err", err)
				return nil
			}
			answers[i] = got.(*T)
			return nil
		})
	}
	_ = g.Wait() // what failed is left out
	out := make(map[string]*T, len(nodes))
	for i, node := range nodes {
		if answers[i] != nil {
			out[node] = answers[i]
		}
	}
	return out
}

// shared returns an answer that is fresh, or the one that is on its way, or asks. The answer must not be changed.
func (a *usageAsker) shared(ctx context.Context, key usageKey, empty func() any) (any, error) {
	for {
		a.mu.Lock()
		known := a.last[key]
		if known == nil || known.over(time.Now()) {
			known = &usageAnswer{done: make(chan struct{})}
			a.last[key] = known
			a.mu.Unlock()
			known.value, known.err = a.get(ctx, key, empty())
			known.until = time.Now().Add(usageFresh)
			close(known.done)
			return known.value, known.err
		}
		a.mu.Unlock()
		select {
		case <-known.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// Whoever asked may have gone away before the answer came: that says nothing to the others.
		if !errors.Is(known.err, context.Canceled) || ctx.Err() != nil {
			return known.value, known.err
		}
	}
}

// over says that an answer is there and too old, or that whoever asked gave up.
func (k *usageAnswer) over(now time.Time) bool {
	select {
	case <-k.done:
		return now.After(k.until) || errors.Is(k.err, context.Canceled)
	default:
		return false
	}
}

// tidy forgets the answers of nodes that nobody asks for any more.
func (a *usageAsker) tidy() {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.last, func(_ usageKey, k *usageAnswer) bool { return k.over(now) })
}

func (a *usageAsker) get(ctx context.Context, key usageKey, into any) (any, error) {
	rt, err := a.reach(key.node)
	if err != nil {
		return nil, err
	}
	r := (&http.Request{Method: http.MethodGet, URL: agentURL(key.node, key.path, nil), Host: key.node, Header: http.Header{}}).WithContext(ctx)
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("asking node %s: %w", key.node, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, agentErrorLimit))
		return nil, fmt.Errorf("node %s: %s: %s", key.node, resp.Status, text)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, usageLimit)).Decode(into); err != nil {
		return nil, fmt.Errorf("what node %s says it uses: %w", key.node, err)
	}
	return into, nil
}
