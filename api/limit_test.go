package api_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"mgr/api"
	"mgr/api/apitest"
)

// serve puts a server behind a real TLS listener that speaks HTTP/2.
func serve(t *testing.T, change func(*api.Config)) *httptest.Server {
	t.Helper()
	s := apitest.New(t, change)
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() {
		s.Close()
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv
}

// client speaks HTTP/2 or HTTP/1.1 to srv.
func clientOf(srv *httptest.Server, h2 bool) *http.Client {
	tr := srv.Client().Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = h2
	if !h2 {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	return &http.Client{Transport: tr}
}

func post(t *testing.T, c *http.Client, url string, body io.Reader) (int, string, int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url+"/api/v1/namespaces/default/configmaps", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.ProtoMajor
}

// TestBodyThatNeverEnds: neither a body that stands still nor one that flows for ever holds a request open or fills memory.
func TestBodyThatNeverEnds(t *testing.T) {
	srv := serve(t, func(c *api.Config) { c.BodyPatience = 200 * time.Millisecond; c.MaxInFlight = 1 })
	for proto, h2 := range map[int]bool{1: false, 2: true} {
		c := clientOf(srv, h2)
		still, w := io.Pipe()
		var wrote sync.WaitGroup
		wrote.Go(func() {
			if _, err := io.WriteString(w, `{"metadata":`); err != nil {
				t.Error(err)
			}
		})
		code, text, got := post(t, c, srv.URL, still)
		wrote.Wait()
		if code != http.StatusRequestTimeout || got != proto || !strings.Contains(text, "did not arrive within 200ms") {
			t.Errorf("HTTP/%d, a body that stands still: HTTP/%d %d %s", proto, got, code, text)
		}
		still.Close()
		flood := io.MultiReader(strings.NewReader(`{"metadata":{"name":"`), io.LimitReader(endless{}, 64<<20))
		if code, text, _ := post(t, c, srv.URL, flood); code != http.StatusRequestEntityTooLarge {
			t.Errorf("HTTP/%d, a body that never ends: %d %s", proto, code, text)
		}
		// The one slot is free again.
		if code, text, _ := post(t, c, srv.URL, strings.NewReader(fmt.Sprintf(`{"metadata":{"name":"after-%d"}}`, proto))); code != http.StatusCreated {
			t.Errorf("afterwards: %d %s", code, text)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestWatchesOfOneUserAreBounded: the watches beyond MaxWatches are refused, the others go on, and one that ends makes room.
func TestWatchesOfOneUserAreBounded(t *testing.T) {
	const limit = 50
	srv := serve(t, func(c *api.Config) { c.MaxWatches = limit })
	c := clientOf(srv, true)
	open := func() (int, func()) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/api/v1/configmaps?watch=1&resourceVersion=0", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, func() { cancel(); resp.Body.Close() }
	}
	var last func()
	for i := range limit {
		code, end := open()
		if code != http.StatusOK {
			t.Fatalf("watch %d: %d", i, code)
		}
		t.Cleanup(end)
		last = end
	}
	code, end := open()
	end()
	if code != http.StatusTooManyRequests {
		t.Errorf("watch %d: %d, want 429", limit, code)
	}
	last()
	for { // the server notices the end of a watch by itself
		code, end := open()
		end()
		if code == http.StatusOK {
			return
		}
	}
}

// TestMetricsAreBounded: names that somebody makes up, allowed or not, do not become labels (each would be memory for ever).
func TestMetricsAreBounded(t *testing.T) {
	f := newTarget(t, func(c *api.Config) { c.Authorizer = onlyOpen{} })
	for _, path := range []string{"/api/v1/made-up-1", "/api/v1/namespaces/open/made-up-2", "/apis/made-up-3/v1/things", "/api//\xd6", "/api/v1/namespaces/closed/secrets"} {
		if code, body := f.do(t, "GET", path, "", ""); code >= 500 {
			t.Errorf("%q: %d %s", path, code, body)
		}
	}
	s := apitest.New(t)
	metrics := &target{s.Handler()}
	metrics.do(t, "GET", "/api/v1/made-up-4", "", "")
	_, text := metrics.do(t, "GET", "/metrics", "", "")
	if strings.Contains(text, "made-up") || !strings.Contains(text, `resource="other"`) {
		t.Errorf("metrics name what does not exist:\n%.3000s", text)
	}
}
