package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metrics "k8s.io/metrics/pkg/client/clientset/versioned"

	"mgr/api"
	"mgr/api/apitest"
)

// measuring is an agent that says what a node and its pods use.
type measuring struct {
	mu    sync.Mutex
	pods  metricsv1beta1.PodMetricsList
	asked atomic.Int32
	hold  chan struct{} // nil, or an answer comes when it is closed
}

func (m *measuring) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.asked.Add(1)
	if m.hold != nil {
		select {
		case <-m.hold:
		case <-r.Context().Done():
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var answer any
	switch r.URL.Path {
	case "/usage/node":
		answer = &metricsv1beta1.NodeMetrics{Timestamp: metav1.Now(), Window: metav1.Duration{Duration: 15 * time.Second}, Usage: uses("250m", "1Gi")}
	case "/usage/pods":
		answer = &m.pods
	default:
		http.NotFound(w, r)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

func uses(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// measured starts a server with two nodes, of which only n1 answers, and running pods on both.
func measured(t *testing.T) (*apitest.Server, *measuring, metrics.Interface) {
	t.Helper()
	m := &measuring{}
	s := apitest.New(t, func(c *api.Config) { c.Dialer = agent{m} })
	ctx := t.Context()
	for _, name := range []string{"n1", "n2"} {
		if _, err := s.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": name}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, node := range map[string]string{"one": "n1", "two": "n1", "away": "n2"} {
		p := pod(name)
		p.Labels = map[string]string{"is": name}
		made, err := s.Client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if errs := s.Bind(ctx, 0, []api.Binding{{Namespace: "default", Name: name, Node: node}}); errs[0] != nil {
			t.Fatal(errs[0])
		}
		if _, err := s.Client.CoreV1().Pods("default").Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		m.pods.Items = append(m.pods.Items, metricsv1beta1.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: made.UID}, Timestamp: metav1.Now(), Window: metav1.Duration{Duration: time.Second},
			Containers: []metricsv1beta1.ContainerMetrics{{Name: "main", Usage: uses("10m", "20Mi")}, {Name: "side", Usage: uses("5m", "1Mi")}},
		})
	}
	client, err := metrics.NewForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return s, m, client
}

// What does not answer is left out; selectors, names and labels are the objects' own.
func TestUsage(t *testing.T) {
	_, _, client := measured(t)
	ctx := t.Context()
	nodes, err := client.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 1 || nodes.Items[0].Name != "n1" || nodes.Items[0].Labels["of"] != "n1" || nodes.Items[0].Usage.Cpu().String() != "250m" || nodes.Items[0].Window.Duration != 15*time.Second {
		t.Errorf("nodes: %+v", nodes.Items)
	}
	if _, err := client.MetricsV1beta1().NodeMetricses().Get(ctx, "n2", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a node that does not answer: %v", err)
	}
	pods := client.MetricsV1beta1().PodMetricses("default")
	for selector, want := range map[string]string{"": "one two", "is=two": "two", "is in (one,away)": "one", "is=nobody": ""} {
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range list.Items {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("pods with %q: %s, want %s", selector, got, want)
		}
	}
	got, err := pods.Get(ctx, "one", metav1.GetOptions{})
	if err != nil || len(got.Containers) != 2 || got.Containers[0].Usage.Memory().String() != "20Mi" || got.Labels["is"] != "one" {
		t.Errorf("one: %+v, %v", got, err)
	}
	for _, name := range []string{"away", "none"} {
		if _, err := pods.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "pods.metrics.k8s.io") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := client.MetricsV1beta1().PodMetricses("elsewhere").List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("another namespace: %v, %v", list, err)
	}
	if _, err := pods.Watch(ctx, metav1.ListOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("watch: %v", err)
	}
}

// A pod that was replaced by one of the same name is not shown with the old one's use.
func TestUsageOfNamesakes(t *testing.T) {
	_, m, client := measured(t)
	for i := range m.pods.Items {
		m.pods.Items[i].UID = "another"
	}
	list, err := client.MetricsV1beta1().PodMetricses("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// Many askers at once are one question to the agent, and the answer stands for a while.
func TestUsageIsAskedOnce(t *testing.T) {
	_, m, client := measured(t)
	m.hold = make(chan struct{})
	ctx := t.Context()
	gone, leave := context.WithCancel(ctx)
	first := make(chan error, 1)
	go func() {
		_, err := client.MetricsV1beta1().NodeMetricses().Get(gone, "n1", metav1.GetOptions{})
		first <- err
	}()
	for m.asked.Load() == 0 {
		if err := ctx.Err(); err != nil {
			t.Fatal(err)
		}
	}
	results := make(chan error, 20)
	for range cap(results) {
		go func() {
			got, err := client.MetricsV1beta1().NodeMetricses().Get(ctx, "n1", metav1.GetOptions{})
			if err == nil && got.Usage.Memory().String() != "1Gi" {
				err = fmt.Errorf("%+v", got)
			}
			results <- err
		}()
	}
	leave() // the one who asked goes away: the others still get an answer
	<-first
	close(m.hold)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := m.asked.Load(); n > 2 {
		t.Errorf("the agent was asked %d times", n)
	}
}

// kubectl finds the API and prints its tables.
func TestUsageIsDiscovered(t *testing.T) {
	s, _, _ := measured(t)
	d, err := discovery.NewDiscoveryClientForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.ServerResourcesForGroupVersion("metrics.k8s.io/v1beta1")
	if err != nil || len(list.APIResources) != 2 || list.APIResources[0].Kind != "NodeMetrics" || strings.Join(list.APIResources[1].Verbs, ",") != "get,list" {
		t.Fatalf("%+v, %v", list, err)
	}
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Config.Host+"/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var table metav1.Table
	if err := json.NewDecoder(resp.Body).Decode(&table); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 2 || fmt.Sprint(table.Rows[0].Cells) != "[one 15m 21Mi 1s]" || len(table.ColumnDefinitions) != 4 {
		t.Errorf("%+v", table)
	}
}
