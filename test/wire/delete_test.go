package wire_test

import (
	"encoding/json"
	"strings"
	"testing"
)

type meta struct {
	Kind     string
	Status   any
	Metadata struct {
		Name                       string
		UID                        string
		DeletionTimestamp          string
		DeletionGracePeriodSeconds *int
		Finalizers                 []string
	}
}

func (c *client) object(method, path, send string, header ...string) (int, meta) {
	c.t.Helper()
	a := c.do(method, path, send, header...)
	var m meta
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		c.t.Fatalf("%s %s: %v\n%s", method, path, err, a.body)
	}
	return a.code, m
}

const (
	podPath = "/api/v1/namespaces/default/pods"
	podBody = `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
	rsPath  = "/apis/apps/v1/namespaces/default/replicasets"
	rsBody  = `{"metadata":{"name":"p"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`
	bindTo  = `{"target":{"kind":"Node","name":"n1"}}`
)

// TestDeletes is the matrix of what a delete leaves behind.
func TestDeletes(t *testing.T) {
	for _, q := range []struct {
		name, path, body, finalizers string
		bind                         bool
		options                      string
		gone                         bool
		grace                        int
		left                         string
	}{
		{name: "configmap", path: cms, body: `{"metadata":{"name":"p"}}`, gone: true},
		{name: "finalizer", path: cms, body: `{"metadata":{"name":"p","finalizers":["x.io/y"]}}`, left: "x.io/y"},
		{name: "orphan", path: rsPath, body: rsBody, options: `{"propagationPolicy":"Orphan"}`, left: "orphan"},
		{name: "foreground", path: rsPath, body: rsBody, options: `{"propagationPolicy":"Foreground"}`, left: "foregroundDeletion"},
		{name: "background", path: rsPath, body: rsBody, options: `{"propagationPolicy":"Background"}`, gone: true},
		{name: "pending pod", path: podPath, body: podBody, gone: true},
		{name: "bound pod", path: podPath, body: podBody, bind: true, grace: 30},
		{name: "bound pod, 5 s", path: podPath, body: podBody, bind: true, options: `{"gracePeriodSeconds":5}`, grace: 5},
		{name: "bound pod, now", path: podPath, body: podBody, bind: true, options: `{"gracePeriodSeconds":0}`, gone: true},
		{name: "dry run", path: podPath, body: podBody, options: `{"dryRun":["All"]}`, grace: -1},
	} {
		t.Run(q.name, func(t *testing.T) {
			c := start(t)
			if code, _ := c.object("POST", q.path, q.body); code != 201 {
				t.Fatalf("create: %d", code)
			}
			if q.bind {
				if a := c.do("POST", q.path+"/p/binding", bindTo); a.code != 201 {
					t.Fatalf("bind: %d %s", a.code, a.body)
				}
			}
			if code, m := c.object("DELETE", q.path+"/p", q.options); code != 200 {
				t.Fatalf("delete: %d %+v", code, m)
			}
			code, m := c.object("GET", q.path+"/p", "")
			switch {
			case q.gone != (code == 404):
				t.Errorf("after the delete: %d", code)
			case q.gone:
			case q.grace < 0 && m.Metadata.DeletionTimestamp != "":
				t.Errorf("a dry run deleted: %+v", m)
			case q.grace >= 0 && (m.Metadata.DeletionTimestamp == "" || *m.Metadata.DeletionGracePeriodSeconds != q.grace):
				t.Errorf("not marked: %+v", m)
			case strings.Join(m.Metadata.Finalizers, " ") != q.left:
				t.Errorf("finalizers %v, want %s", m.Metadata.Finalizers, q.left)
			}
			if q.left != "" {
				if a := c.do("PATCH", q.path+"/p", `{"metadata":{"finalizers":null}}`, "Content-Type", "application/merge-patch+json"); a.code != 200 {
					t.Errorf("taking the finalizer away: %d %s", a.code, a.body)
				}
				if code, _ := c.object("GET", q.path+"/p", ""); code != 404 {
					t.Errorf("after the last finalizer: %d", code)
				}
			}
			if q.grace > 0 { // the agent's last word
				c.do("DELETE", q.path+"/p", `{"gracePeriodSeconds":0}`)
				if code, _ := c.object("GET", q.path+"/p", ""); code != 404 {
					t.Errorf("after the final delete: %d", code)
				}
			}
		})
	}
}

func TestDeletePreconditions(t *testing.T) {
	c := start(t)
	c.fill(1)
	for options, want := range map[string]string{
		`{"preconditions":{"uid":"other"}}`:            "the UID in the precondition (other) does not match the UID in record",
		`{"preconditions":{"resourceVersion":"9999"}}`: "the ResourceVersion in the precondition (9999) does not match the ResourceVersion in record",
	} {
		if a := c.do("DELETE", cms+"/cm-00", options); a.code != 409 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", options, a.code, a.body)
		}
	}
	if a := c.do("DELETE", cms+"/none", ""); a.code != 404 {
		t.Errorf("nothing: %d", a.code)
	}
}

func TestDeleteCollection(t *testing.T) {
	c := start(t)
	c.fill(50)
	if a := c.do("DELETE", cms+"?labelSelector=even%3Dtrue", ""); a.code != 200 || !strings.Contains(a.body, `"kind":"ConfigMapList"`) {
		t.Errorf("%d %.200s", a.code, a.body)
	}
	if n := len(c.list(cms).Items); n != 25 {
		t.Errorf("%d are left", n)
	}
}

func TestNamespaceEndsWithItsFinalizer(t *testing.T) {
	c := start(t)
	c.do("POST", "/api/v1/namespaces", `{"metadata":{"name":"demo"}}`)
	c.do("DELETE", "/api/v1/namespaces/demo", "")
	a := c.do("GET", "/api/v1/namespaces/demo", "")
	if a.code != 200 || !strings.Contains(a.body, `"phase":"Terminating"`) || !strings.Contains(a.body, `"deletionTimestamp"`) {
		t.Fatalf("after the delete: %d %s", a.code, a.body)
	}
	done := strings.Replace(a.body, `"finalizers":["kubernetes"]`, `"finalizers":[]`, 1)
	if a := c.do("PUT", "/api/v1/namespaces/demo/finalize", done); a.code != 200 {
		t.Errorf("finalize: %d %s", a.code, a.body)
	}
	if a := c.do("GET", "/api/v1/namespaces/demo", ""); a.code != 404 {
		t.Errorf("after finalize: %d %s", a.code, a.body)
	}
}
