package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// ask sends a request and returns status and body.
func ask(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestServe(t *testing.T) {
	t.Setenv("POD_NAME", "demo-1")
	t.Setenv("POD_NAMESPACE", "")
	server := httptest.NewServer((&server{host: "host-1", started: time.Now()}).routes())
	defer server.Close()
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/", 200, "Hello from host-1, pod demo-1: request 1 in 0s\n"},
		{"GET", "/anything", 200, "Hello from host-1, pod demo-1: request 2 in 0s\n"},
		{"GET", "/hostname", 200, "host-1\n"},
		{"GET", "/healthz", 200, "ok\n"},
		{"GET", "/readyz", 200, "ok\n"},
		{"PUT", "/readyz?ready=maybe", 400, "say ready=true or ready=false\n"},
		{"PUT", "/readyz?ready=false", 200, "ready: false\n"},
		{"GET", "/readyz", 503, "not ready\n"},
		{"PUT", "/readyz?ready=true", 200, "ready: true\n"},
		{"GET", "/readyz", 200, "ok\n"},
		{"DELETE", "/", 405, "Method Not Allowed\n"},
	} {
		if status, body := ask(t, c.method, server.URL+c.path); status != c.status || body != c.body {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, body, c.status, c.body)
		}
	}
	if _, body := ask(t, "GET", server.URL+"/env"); !strings.Contains(body, "POD_NAME=demo-1\n") {
		t.Errorf("/env: %q", body)
	}
}

func TestTools(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			http.Error(w, "bad", http.StatusInternalServerError)
		}
	}))
	defer up.Close()
	for _, c := range []struct {
		command string
		args    []string
		want    int
	}{
		{"true", nil, 0}, {"false", nil, 1}, {"crash", nil, 1}, {"crash", []string{"9"}, 9}, {"crash", []string{"x"}, 1},
		{"sleep", []string{"0.001"}, 0}, {"sleep", []string{"1ms"}, 0}, {"sleep", nil, 1}, {"sleep", []string{"long"}, 1},
		{"echo", []string{"a"}, 0}, {"fetch", []string{up.URL, "2"}, 0}, {"fetch", []string{up.URL + "/bad"}, 1}, {"fetch", nil, 1},
		{"fetch", []string{"http://127.0.0.1:1/"}, 1},
	} {
		if got := commands[c.command](c.args); got != c.want {
			t.Errorf("%s %v: exit code %d, want %d", c.command, c.args, got, c.want)
		}
	}
}
