package wire_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

type event struct {
	Type   string
	Object struct {
		Kind     string
		Code     int
		Metadata struct {
			Name, ResourceVersion string
			Annotations           map[string]string
		}
	}
}

// watch opens a watch and returns a function that waits for its next event ("" at its end).
func (c *client) watch(path string, header ...string) func() event {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.url+path, http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || resp.StatusCode != 200 {
		c.t.Fatalf("watch %s: %v %+v", path, err, resp)
	}
	c.t.Cleanup(func() { resp.Body.Close() })
	lines := make(chan []byte, 1000)
	go func() {
		defer close(lines)
		in := bufio.NewReader(resp.Body)
		for {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return
			}
			lines <- line
		}
	}()
	return func() event {
		c.t.Helper()
		var e event
		select {
		case line, ok := <-lines:
			if !ok {
				return e
			}
			if err := json.Unmarshal(line, &e); err != nil {
				c.t.Fatalf("%v in %s", err, line)
			}
		case <-time.After(20 * time.Second):
			c.t.Fatal("no event within 20 s")
		}
		return e
	}
}

func (e event) String() string { return strings.TrimSpace(e.Type + " " + e.Object.Metadata.Name) }

func expect(t *testing.T, next func() event, want ...string) event {
	t.Helper()
	var e event
	for _, w := range want {
		if e = next(); e.String() != w {
			t.Fatalf("got %q, want %q", e, w)
		}
	}
	return e
}

const tableAccept = "application/json;as=Table;v=v1;g=meta.k8s.io"

func TestWatchForms(t *testing.T) {
	c := start(t)
	c.fill(2)
	rv := c.list(cms).Metadata.ResourceVersion
	legacy := c.watch(cms + "?watch=true")
	expect(t, legacy, "ADDED cm-00", "ADDED cm-01")
	resumed := c.watch(cms + "?watch=1&resourceVersion=" + rv)
	named := c.watch("/api/v1/watch/namespaces/default/configmaps/cm-01?resourceVersion=" + rv)
	old := c.watch("/api/v1/watch/namespaces/default/configmaps?resourceVersion=" + rv)
	table := c.watch(cms+"?watch=1&resourceVersion="+rv, "Accept", tableAccept)
	initial := c.watch(cms + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	mark := expect(t, initial, "ADDED cm-00", "ADDED cm-01", "BOOKMARK")
	if mark.Object.Kind != "ConfigMap" || mark.Object.Metadata.ResourceVersion != rv || mark.Object.Metadata.Annotations["k8s.io/initial-events-end"] != "true" {
		t.Errorf("end of the initial events: %+v", mark)
	}
	c.do("POST", cms, `{"metadata":{"name":"new"}}`)
	c.do("PATCH", cms+"/cm-01", `{"data":{"k":"w"}}`, "Content-Type", "application/merge-patch+json")
	c.do("DELETE", cms+"/cm-01", "")
	for _, w := range []func() event{legacy, resumed, old, initial} {
		last := expect(t, w, "ADDED new", "MODIFIED cm-01", "DELETED cm-01")
		if n, _ := strconv.Atoi(last.Object.Metadata.ResourceVersion); strconv.Itoa(n-3) != rv {
			t.Errorf("deleted at %d, three changes after %s", n, rv)
		}
	}
	expect(t, named, "MODIFIED cm-01", "DELETED cm-01")
	if e := table(); e.Type != "ADDED" || e.Object.Kind != "Table" {
		t.Errorf("table: %+v", e)
	}
}

func TestWatchEnds(t *testing.T) {
	c := start(t)
	c.fill(1)
	short := c.watch(cms + "?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion=1")
	expect(t, short, "BOOKMARK", "")
	if a := c.do("GET", cms+"?watch=1&resourceVersion=99", ""); a.code != 504 {
		t.Errorf("a watch from the future: %d %s", a.code, a.body)
	}
	open := c.watch(cms + "?watch=1&resourceVersion=1")
	c.s.Close()
	expect(t, open, "")
}

// TestWatchTooOld: history is bounded, and says so.
func TestWatchTooOld(t *testing.T) {
	c := start(t)
	c.fill(1)
	text := strings.Repeat("x", 900<<10)
	for i := range 60 { // 54 MB through a history of 32
		if a := c.do("PATCH", cms+"/cm-00", fmt.Sprintf(`{"data":{"k":"%d %s"}}`, i, text), "Content-Type", "application/merge-patch+json"); a.code != 200 {
			t.Fatalf("patch: %d", a.code)
		}
	}
	e := c.watch(cms + "?watch=1&resourceVersion=1")()
	if e.Type != "ERROR" || e.Object.Kind != "Status" || e.Object.Code != 410 {
		t.Errorf("watch: %+v", e)
	}
	if a := c.do("GET", cms+"?resourceVersionMatch=Exact&resourceVersion=1", ""); a.code != 410 || !strings.Contains(a.body, "too old resource version: 1") {
		t.Errorf("list: %d %.300s", a.code, a.body)
	}
}
