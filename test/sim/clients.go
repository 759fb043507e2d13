package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"mgr/fsm"
)

// client is an HTTP client on a host of its own. It is used by one goroutine.
type client struct {
	w      *world
	name   string
	random *rand.Rand
	http   *http.Transport
}

func (w *world) client(name string, number uint64) *client {
	return &client{w: w, name: name, random: rand.New(rand.NewPCG(w.plan.seed, 100+number)), http: w.transport(name)}
}

func (c *client) sleep(ctx context.Context, least, most time.Duration) {
	t := time.NewTimer(least + time.Duration(c.random.Int64N(int64(most-least)+1)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// anywhere is the address of some master.
func (c *client) anywhere() string {
	all := c.w.addrs()
	return all[c.random.IntN(len(all))]
}

// meta is what is read of every object.
type meta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	DeletionTimestamp string            `json:"deletionTimestamp"`
	Labels            map[string]string `json:"labels"`
}

func (m meta) revision() uint64 {
	r, _ := strconv.ParseUint(m.ResourceVersion, 10, 64) // 0 is no revision of an object
	return r
}

// object is any object as the simulated clients read it.
type object struct {
	Kind     string            `json:"kind"`
	Metadata meta              `json:"metadata"`
	Data     map[string]string `json:"data"`
	Items    []object          `json:"items"`
	Code     int               `json:"code"`    // of a Status
	Message  string            `json:"message"` // of a Status
}

// requestPatience is how long clients wait for an answer.
const requestPatience = 5 * time.Second

// call sends a request to a master. An error says that there was no answer: the outcome is not known.
func (c *client) call(ctx context.Context, addr, method, path string, query url.Values, body any) (int, *object, error) {
	ctx, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	resp, err := c.send(ctx, addr, method, path, query, body)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	out := &object{}
	b, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read the answer: %w", err)
	}
	return resp.StatusCode, out, nil
}

func (c *client) send(ctx context.Context, addr, method, path string, query url.Values, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, masterURL(addr, path, query).String(), reader)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	r.Header.Set("User-Agent", "sim")
	return c.http.RoundTrip(r)
}

// told notes the revision of an answer: nobody may be shown anything older from now on.
func (w *world) told(revision uint64) {
	for {
		known := w.floor.Load()
		if revision <= known || w.floor.CompareAndSwap(known, revision) {
			return
		}
	}
}

// outcome of a write.
type outcome int

const (
	acknowledged outcome = iota
	refused              // nothing was written
	unknown
)

// outcomeOf an answer. 504 is what the API answers when it does not know; 500 and no answer at all say nothing.
func outcomeOf(code int, err error) outcome {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case err != nil || code == http.StatusGatewayTimeout || code == http.StatusInternalServerError:
		return unknown
	case code < 300:
		return acknowledged
	}
	return refused
}

// record is what clients of the registers saw.
type record struct {
	mu     sync.Mutex
	writes []writeRecord
	reads  []readRecord
	lists  []listRecord
}

// writeRecord is a write of a register.
type writeRecord struct {
	client   int
	key      fsm.Key
	value    string
	revision uint64 // of the answer
	floor    uint64 // what had been told when it was sent
	outcome  outcome
	deletion bool
	answer   string
	call     int64
	end      int64
}

// readRecord is a linearizable read of a register.
type readRecord struct {
	client   int
	key      fsm.Key
	value    string // "": it is not there
	revision uint64 // of the object
	floor    uint64
	master   string
	call     int64
	end      int64
}

// listRecord is a linearizable list of the registers.
type listRecord struct {
	revision uint64
	floor    uint64
	master   string
	items    map[string]uint64 // revisions by name
}

const (
	namespace = "default"
	registers = 4
)

func registerName(i int) string { return "reg-" + strconv.Itoa(i) }

func configMapPath(name string) string {
	return "/api/v1/namespaces/" + namespace + "/configmaps" + name
}

func configMap(name, value, revision string) map[string]any {
	m := map[string]any{"name": name, "namespace": namespace, "labels": map[string]any{"sim": "register"}}
	if revision != "" {
		m["resourceVersion"] = revision
	}
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": m, "data": map[string]any{"v": value}}
}

// runWriter creates, replaces, patches and deletes registers.
func (w *world) runWriter(number int) func(context.Context, *client) {
	return func(ctx context.Context, c *client) {
		known := map[string]string{} // resource versions
		for i := 0; ctx.Err() == nil; i++ {
			name, value := registerName(c.random.IntN(registers)), fmt.Sprintf("%d.%d", number, i)
			r := writeRecord{client: number, key: fsm.Key{Resource: "configmaps", Namespace: namespace, Name: name}, value: value, floor: w.floor.Load(), call: w.totals.clock.Add(1)}
			code, o, err := w.writeRegister(ctx, c, &r, known)
			r.end = w.totals.clock.Add(1)
			r.outcome, r.answer = outcomeOf(code, err), fmt.Sprint(err)
			if err == nil {
				r.answer = fmt.Sprint(code, " ", o.Message)
			}
			if r.outcome == acknowledged && o.Kind == "ConfigMap" {
				r.revision = o.Metadata.revision()
				known[name] = o.Metadata.ResourceVersion
				w.told(r.revision)
			}
			w.totals.add(r)
			c.sleep(ctx, 5*time.Millisecond, w.plan.pace)
		}
	}
}

// writeRegister writes value in one of the ways there are. Deletions carry no value.
func (w *world) writeRegister(ctx context.Context, c *client, r *writeRecord, known map[string]string) (int, *object, error) {
	name, value := r.key.Name, r.value
	addr, path := c.anywhere(), configMapPath("/"+name)
	switch k := c.random.IntN(10); {
	case k < 1 && w.plan.seed%8 != 0: // porcupine's model has no deletions
		r.deletion = true
		return c.call(ctx, addr, http.MethodDelete, path, nil, nil)
	case k < 4:
		return c.call(ctx, addr, http.MethodPost, configMapPath(""), nil, configMap(name, value, ""))
	case k < 6:
		return c.call(ctx, addr, http.MethodPatch, path, nil, map[string]any{"data": map[string]any{"v": value}})
	case k < 8:
		return c.call(ctx, addr, http.MethodPut, path, nil, configMap(name, value, known[name]))
	}
	return c.call(ctx, addr, http.MethodPut, path, nil, configMap(name, value, ""))
}

// runReader gets and lists registers.
func (w *world) runReader(number int) func(context.Context, *client) {
	return func(ctx context.Context, c *client) {
		for ctx.Err() == nil {
			if c.random.IntN(4) == 0 {
				w.list(ctx, c)
			} else {
				w.read(ctx, c, number)
			}
			c.sleep(ctx, 5*time.Millisecond, w.plan.pace)
		}
	}
}

func (w *world) read(ctx context.Context, c *client, number int) {
	name, addr := registerName(c.random.IntN(registers)), c.anywhere()
	r := readRecord{client: number, key: fsm.Key{Resource: "configmaps", Namespace: namespace, Name: name}, floor: w.floor.Load(), master: addr, call: w.totals.clock.Add(1)}
	code, o, err := c.call(ctx, addr, http.MethodGet, configMapPath("/"+name), w.consistency(), nil)
	r.end = w.totals.clock.Add(1)
	switch {
	case err == nil && code == http.StatusOK:
		r.value, r.revision = o.Data["v"], o.Metadata.revision()
		w.told(r.revision)
	case err == nil && code == http.StatusNotFound:
	default:
		return
	}
	w.totals.addRead(r)
}

// consistency of reads: that of Kubernetes, unless reads are broken on purpose.
func (w *world) consistency() url.Values {
	if w.plan.broken == staleReads {
		return url.Values{"resourceVersion": {"0"}}
	}
	return nil
}

func (w *world) list(ctx context.Context, c *client) {
	addr := c.anywhere()
	r := listRecord{floor: w.floor.Load(), master: addr, items: map[string]uint64{}}
	code, o, err := c.call(ctx, addr, http.MethodGet, configMapPath(""), url.Values{"labelSelector": {"sim=register"}}, nil)
	if err != nil || code != http.StatusOK {
		return
	}
	r.revision = o.Metadata.revision()
	for _, item := range o.Items {
		r.items[item.Metadata.Name] = item.Metadata.revision()
	}
	w.told(r.revision)
	w.totals.addList(r)
}

// checkRecord compares what clients saw with what happened.
func (w *world) checkRecord(events []*event) {
	r := &w.totals.record
	all := versionsOf(events, "configmaps")
	values := map[string]uint64{} // revisions by value
	for _, e := range events {
		if e.resource == "configmaps" && e.Object.Key.Namespace == namespace {
			var o object
			if err := json.Unmarshal(e.Object.Data, &o); err == nil && o.Data["v"] != "" && e.Type != fsm.Deleted {
				if values[o.Data["v"]] == 0 {
					values[o.Data["v"]] = e.Revision
				}
			}
		}
	}
	for _, x := range r.writes {
		w.checkWrite(x, values)
	}
	for _, x := range r.reads {
		now, next := all.at(x.key, max(x.revision, x.floor))
		if x.revision != 0 {
			if now, next = all.at(x.key, x.revision); now == nil || now.Revision != x.revision {
				w.broke("%s showed %s at revision %d, which it never had", x.master, x.key, x.revision)
				continue
			}
			if next != 0 && next <= x.floor {
				w.broke("stale read: %s showed %s at revision %d after revision %d was known; it changed at %d", x.master, x.key, x.revision, x.floor, next)
			}
			continue
		}
		// It was not there: at the time that was known, or some time later.
		if now != nil && !slices.ContainsFunc(all[x.key], func(v version) bool { return v.revision > x.floor && v.object == nil }) {
			w.broke("stale read: %s did not show %s after revision %d was known", x.master, x.key, x.floor)
		}
	}
	for _, x := range r.lists {
		w.checkList(x, all)
	}
}

func (w *world) checkWrite(x writeRecord, values map[string]uint64) {
	at, written := values[x.value]
	switch {
	case x.outcome == refused && written:
		w.broke("the write of %q was refused (%s), and is in the history at revision %d", x.value, x.answer, at)
	case x.outcome == acknowledged && x.revision != 0 && at != x.revision:
		w.broke("lost write: %q was acknowledged at revision %d, and is in the history at %d", x.value, x.revision, at)
	case x.outcome == acknowledged && x.revision != 0 && x.revision <= x.floor:
		w.broke("the write of %q has revision %d after %d was known", x.value, x.revision, x.floor)
	}
}

func (w *world) checkList(x listRecord, all versions) {
	if x.revision < x.floor {
		w.broke("stale list: %s showed revision %d after %d was known", x.master, x.revision, x.floor)
	}
	for i := range registers {
		name := registerName(i)
		o, _ := all.at(fsm.Key{Resource: "configmaps", Namespace: namespace, Name: name}, x.revision)
		want := uint64(0)
		if o != nil {
			want = o.Revision
		}
		if got := x.items[name]; got != want {
			w.broke("the list of %s at revision %d has %s at revision %d, not %d", x.master, x.revision, name, got, want)
		}
	}
}
