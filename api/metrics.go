package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/component-base/metrics/legacyregistry"
)

// apiMetrics are what /metrics shows of this server, beside what the Kubernetes libraries count themselves.
type apiMetrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	dropped  prometheus.Counter
	forwards *prometheus.CounterVec
	gauges   func() map[string]float64
}

func newMetrics(gauges func() map[string]float64) *apiMetrics {
	m := &apiMetrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mgr_api_requests_total", Help: "Requests answered, by verb, resource and status code."}, []string{"verb", "resource", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mgr_api_request_seconds", Help: "Time to answer requests that are no watches or streams, by verb.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"verb"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mgr_api_dropped_total", Help: "Requests refused with 429 because too many were in flight."}),
		forwards: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mgr_api_forwarded_total", Help: "Requests handed to the leader, by outcome."}, []string{"outcome"}),
		gauges: gauges,
	}
	m.registry.MustRegister(m.requests, m.seconds, m.dropped, m.forwards, m,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// request counts one. Labels are bounded by the kind table, whatever is asked for: served says that the request is about one of its
// resources.
func (m *apiMetrics) request(info *request.RequestInfo, served bool, code int, took time.Duration) {
	verb, res := "other", "other"
	if info.IsResourceRequest {
		switch info.Verb {
		case "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection":
			verb = info.Verb
		}
		if served {
			res = info.Resource
		}
	}
	m.requests.WithLabelValues(verb, res, strconv.Itoa(code)).Inc()
	if !longRunning(info) {
		m.seconds.WithLabelValues(verb).Observe(took.Seconds())
	}
}

// Describe implements prometheus.Collector: the gauges are known only when they are read.
func (m *apiMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *apiMetrics) Collect(out chan<- prometheus.Metric) {
	if m.gauges == nil {
		return
	}
	for name, v := range m.gauges() {
		if metric, err := prometheus.NewConstMetric(prometheus.NewDesc(name, "State of this master.", nil, nil), prometheus.GaugeValue, v); err == nil {
			out <- metric
		}
	}
}

func (m *apiMetrics) handler() http.Handler {
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, legacyregistry.DefaultGatherer}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}
