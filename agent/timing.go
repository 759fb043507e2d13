package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// timing measures the steps of each pod's start, for /metrics: where the time goes between the pod's arrival and the API's knowing
// that it runs.
type timing struct{ steps *prometheus.HistogramVec }

// Steps of a pod's start; stepTotal is from the agent's hearing of the pod to the API's answer to the status that says Running.
const (
	stepSandbox = "sandbox"
	stepNetwork = "network"
	stepVolumes = "volumes"
	stepSpec    = "spec" // of a container: environment, files, mounts
	stepCreate  = "create"
	stepStart   = "start"
	stepStatus  = "status"
	stepTotal   = "total"
)

func newTiming() *timing {
	return &timing{steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mgr_agent_pod_start_seconds",
		Help:    "Time of each step of a pod's start; total is from the pod's arrival to the API's knowing that it runs.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
	}, []string{"step"})}
}

// since records a step that has just ended.
func (t *timing) since(step string, began time.Time) {
	t.steps.WithLabelValues(step).Observe(time.Since(began).Seconds())
}
