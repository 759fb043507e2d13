package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"mgr/api/apitest"
)

// discard is an http.ResponseWriter that keeps nothing, so that the server alone is measured.
type discard struct {
	header http.Header
	code   int
	bytes  int
	lines  func(n int)
}

func (d *discard) Header() http.Header  { return d.header }
func (d *discard) WriteHeader(code int) { d.code = code }
func (d *discard) Flush()               {}
func (d *discard) Write(b []byte) (int, error) {
	d.bytes += len(b)
	if d.lines != nil {
		d.lines(bytes.Count(b, []byte{'\n'}))
	}
	return len(b), nil
}

func call(b *testing.B, s *apitest.Server, method, path string, send []byte) *discard {
	b.Helper()
	r, err := http.NewRequest(method, "http://x"+path, bytes.NewReader(send))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "kload/v1")
	w := &discard{header: http.Header{}}
	s.Handler().ServeHTTP(w, r)
	return w
}

const benchPods = "/api/v1/namespaces/default/pods"

func podJSON(b *testing.B, i int) []byte {
	p := pod(fmt.Sprintf("pod-%06d", i))
	p.Kind, p.APIVersion = "Pod", "v1"
	data, err := json.Marshal(p)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

func fill(b *testing.B, s *apitest.Server, n int) {
	b.Helper()
	for i := range n {
		if w := call(b, s, "POST", benchPods, podJSON(b, i)); w.code != http.StatusCreated {
			b.Fatalf("create: %d", w.code)
		}
	}
}

func BenchmarkCreatePod(b *testing.B) {
	s := apitest.New(b)
	fill(b, s, 1)
	for i := 1; b.Loop(); i++ {
		call(b, s, "POST", benchPods, podJSON(b, i))
	}
}

func BenchmarkCreateConfigMap(b *testing.B) {
	s := apitest.New(b)
	text := strings.Repeat("x", 1000)
	for i := 0; b.Loop(); i++ {
		call(b, s, "POST", "/api/v1/namespaces/default/configmaps", fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"cm-%d"},"data":{"k":%q}}`, i, text))
	}
}

func BenchmarkGetPod(b *testing.B) {
	s := apitest.New(b)
	fill(b, s, 1)
	for b.Loop() {
		call(b, s, "GET", benchPods+"/pod-000000", nil)
	}
}

func BenchmarkPatchPodStatus(b *testing.B) {
	s := apitest.New(b)
	fill(b, s, 1)
	for i := 0; b.Loop(); i++ {
		r, err := http.NewRequest("PATCH", "http://x"+benchPods+"/pod-000000/status", strings.NewReader(fmt.Sprintf(`{"status":{"message":"m%d"}}`, i)))
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/strategic-merge-patch+json")
		s.Handler().ServeHTTP(&discard{header: http.Header{}}, r)
	}
}

func BenchmarkListPods5000(b *testing.B) {
	s := apitest.New(b)
	fill(b, s, 5000)
	for b.Loop() {
		call(b, s, "GET", benchPods, nil)
	}
}

// BenchmarkWatch200 delivers each event to 200 watchers.
func BenchmarkWatch200(b *testing.B) {
	s := apitest.New(b)
	fill(b, s, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	defer ended.Wait()
	defer cancel()
	const watchers, events = 200, 500
	seen := make(chan int, 1<<16)
	for range watchers {
		ended.Go(func() {
			r, err := http.NewRequestWithContext(ctx, "GET", "http://x"+benchPods+"?watch=true&resourceVersion=1", http.NoBody)
			if err != nil {
				b.Error(err)
				return
			}
			s.Handler().ServeHTTP(&discard{header: http.Header{}, lines: func(n int) { seen <- n }}, r)
		})
	}
	n := 1
	for b.Loop() {
		begin := time.Now()
		for range events {
			call(b, s, "POST", benchPods, podJSON(b, n))
			n++
		}
		made := time.Since(begin)
		for got := 0; got < watchers*events; {
			got += <-seen
		}
		b.ReportMetric(float64(time.Since(begin)-made)/float64(watchers*events), "ns/event-after-writes")
	}
}
