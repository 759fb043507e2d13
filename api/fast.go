package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/fsm"
)

// fast makes objects (see creator), and answers reads of JSON with the stored bytes, without decoding objects (a selector looks at the shared decoded
// form). It returns false, having written nothing, for whatever the handlers must do: other media types, tables, indented
// answers, converted rows, what is not stored.
func (s *Server) fast(w http.ResponseWriter, r *http.Request, e *endpoint, info *request.RequestInfo) bool {
	if e.store == nil || e.kind.Stored != nil || e.verbs[info.Verb] == nil || !plainJSON(r) && (info.Verb != "create" && info.Verb != "watch" || !plainProtobuf(r)) {
		return false
	}
	ctx := request.WithNamespace(r.Context(), info.Namespace)
	var err error
	switch info.Verb {
	case "create":
		if err = errNotFast; !wrongName(info) {
			err = e.fastCreate(ctx, w, r)
		}
	case "get":
		err = e.fastGet(ctx, w, r, info)
	case "list":
		err = e.fastList(ctx, w, r)
	case "watch":
		err = e.fastWatch(ctx, w, r)
	default:
		return false
	}
	if errors.Is(err, errNotFast) {
		return false
	}
	if err != nil {
		s.fail(w, r, err)
	}
	return true
}

// errNotFast leaves the request to the handlers, which word the errors of options.
var errNotFast = errors.New("the handlers must do this")

// plainJSON says whether the client's first choice is compact JSON of the objects themselves.
func plainJSON(r *http.Request) bool {
	first, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	switch strings.TrimSpace(first) {
	case "", "*/*", "application/*", "application/json", "application/json;stream=watch":
	default:
		return false
	}
	if strings.Contains(r.URL.RawQuery, "pretty") {
		return false
	}
	agent := r.UserAgent()
	return !strings.HasPrefix(agent, "curl") && !strings.HasPrefix(agent, "Wget") && !strings.HasPrefix(agent, "Mozilla/5.0")
}

func (e *endpoint) fastGet(ctx context.Context, w http.ResponseWriter, r *http.Request, info *request.RequestInfo) error {
	rv := ""
	if r.URL.RawQuery != "" {
		q := r.URL.Query()
		if len(q["export"]) > 0 {
			return errNotFast
		}
		rv = q.Get("resourceVersion")
	}
	o, err := e.store.object(ctx, info.Name, rv)
	if err != nil {
		return err
	}
	writeStored(w, http.StatusOK, o)
	return nil
}

var (
	newline = []byte{'\n'}
	comma   = []byte{','}
	brace   = []byte{'{'}
)

// listOptions reads the query as the handlers do; what they would refuse is left to them.
func (e *endpoint) listOptions(r *http.Request) (*internalversion.ListOptions, error) {
	options := &internalversion.ListOptions{}
	query := r.URL.Query()
	if err := scheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, options); err != nil {
		return nil, errNotFast
	}
	internalversion.SetListOptionsDefaults(options, true)
	if errs := validation.ValidateListOptions(options, true); len(errs) > 0 {
		return nil, errNotFast
	}
	if options.FieldSelector != nil {
		for _, req := range options.FieldSelector.Requirements() {
			if _, _, err := e.scope.Convertor.ConvertFieldLabel(e.kind.GVK(), req.Field, req.Value); err != nil {
				return nil, errNotFast
			}
		}
	}
	return options, onlyKnown(query)
}

// onlyKnown leaves options that this file does not know to the handlers.
func onlyKnown(query url.Values) error {
	for name := range query {
		switch name {
		case "labelSelector", "fieldSelector", "watch", "allowWatchBookmarks", "resourceVersion", "resourceVersionMatch",
			"timeoutSeconds", "timeout", "limit", "continue", "sendInitialEvents", atParameter, atRevisionParameter:
		default:
			return errNotFast
		}
	}
	return nil
}

func (e *endpoint) fastList(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	options, err := e.listOptions(r)
	if err != nil {
		return err
	}
	p, err := e.store.list(ctx, options)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if !worthPacking(p) || !acceptsGzip(r) {
		out := bufio.NewWriterSize(w, 64<<10)
		e.writeList(out, p)
		_ = out.Flush()
		return nil
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Add("Vary", "Accept-Encoding")
	q := e.store.quorum(ctx)
	if sel := e.store.selection(request.NamespaceValue(ctx), options); sel.everything() {
		e.writePieces(w, q.FSM(), p)
		return nil
	}
	// What a selector picks is asked for by few.
	if z, err := gzip.NewWriterLevel(w, gzip.BestSpeed); err == nil {
		e.writeList(z, p)
		_ = z.Close()
	}
	return nil
}

// listHead is what comes before the items of a typed list.
func (e *endpoint) listHead(p page) ([]byte, error) {
	var head bytes.Buffer
	head.WriteString(`{"kind":"` + e.kind.Kind + `List","apiVersion":"` + e.kind.GroupVersion().String() + `","metadata":`)
	if err := writeJSON(&head, p.meta); err != nil {
		return nil, err
	}
	head.Truncate(head.Len() - 1)
	head.WriteString(`,"items":[`)
	return head.Bytes(), nil
}

// writeList writes a typed list; errors mean that the client is gone.
func (e *endpoint) writeList(out io.Writer, p page) {
	head, err := e.listHead(p)
	if err != nil {
		return
	}
	if _, err := out.Write(head); err != nil {
		return
	}
	for i, o := range p.items {
		if i > 0 {
			_, _ = out.Write(comma)
		}
		if e.writeItem(out, o) != nil {
			return
		}
	}
	_, _ = io.WriteString(out, "]}\n")
}

// gzipFrom is the size from which lists are compressed for clients that ask, as Kubernetes does.
const gzipFrom = 128 << 10

func worthPacking(p page) bool {
	size := 0
	for _, o := range p.items {
		if size += len(o.Data); size >= gzipFrom {
			return true
		}
	}
	return false
}

func acceptsGzip(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(part) == "gzip" {
			return true
		}
	}
	return false
}

func (e *endpoint) fastWatch(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Upgrade") != "" {
		return errNotFast // a watch over WebSocket
	}
	options, err := e.listOptions(r)
	if err != nil {
		return err
	}
	if info, _ := request.RequestInfoFrom(ctx); info.Name != "" && (options.FieldSelector == nil || options.FieldSelector.Empty()) {
		options.FieldSelector = fields.OneTermEqualSelector("metadata.name", info.Name)
	}
	timeout := time.Duration(float64(minWatch) * (1 + rand.Float64()))
	if options.TimeoutSeconds != nil && *options.TimeoutSeconds > 0 {
		timeout = time.Duration(*options.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stream, err := e.store.open(ctx, options)
	if err != nil && !apierrors.IsResourceExpired(err) {
		return err
	}
	var out interface {
		sink
		fail(error)
	}
	if plain := newFrameWriter(w, e); plainJSON(r) {
		w.Header().Set("Content-Type", "application/json")
		out = plain
	} else {
		w.Header().Set("Content-Type", protobufType+";stream=watch")
		out = &protoWriter{*plain}
	}
	w.WriteHeader(http.StatusOK)
	if err == nil {
		if err = out.flush(); err == nil {
			err = stream.run(ctx, out)
		}
	}
	if err != nil && !errors.Is(err, errClientGone) {
		out.fail(err)
	}
	return nil
}

// frameWriter is the sink of a watch of JSON: one line for each event, from shared bytes.
type frameWriter struct {
	e    *endpoint
	buf  *bufio.Writer
	conn *cuttable
}

var errClientGone = errors.New("the watcher's connection is gone or too slow")

func newFrameWriter(w http.ResponseWriter, e *endpoint) *frameWriter {
	conn := newCuttable(w)
	return &frameWriter{e: e, buf: bufio.NewWriterSize(conn, 16<<10), conn: conn}
}

func (f *frameWriter) send(typ watch.EventType, o *fsm.Object) error {
	_, _ = f.buf.WriteString(`{"type":"`)
	_, _ = f.buf.WriteString(string(typ))
	_, _ = f.buf.WriteString(`","object":`)
	_, _ = f.buf.Write(o.Data)
	return f.end()
}

// end closes an event; a bufio.Writer keeps its first error, so looking at it here is enough.
func (f *frameWriter) end() error {
	if _, err := f.buf.WriteString("}\n"); err != nil {
		return errClientGone
	}
	return nil
}

func (f *frameWriter) bookmark(revision uint64, initial bool) error {
	_, _ = f.buf.WriteString(`{"type":"BOOKMARK","object":`)
	_, _ = f.buf.Write(f.e.head)
	_, _ = f.buf.WriteString(`"metadata":{"resourceVersion":"` + strconv.FormatUint(revision, 10) + `","creationTimestamp":null`)
	if initial {
		_, _ = f.buf.WriteString(`,"annotations":{"` + metav1.InitialEventsAnnotationKey + `":"true"}`)
	}
	_, _ = f.buf.WriteString("}}")
	return f.end()
}

func (f *frameWriter) fail(err error) {
	status, merr := json.Marshal(statusObject(err))
	if merr != nil {
		return
	}
	_, _ = f.buf.WriteString(`{"type":"ERROR","object":`)
	_, _ = f.buf.Write(status)
	if f.end() == nil {
		_ = f.flush()
	}
}

func (f *frameWriter) flush() error {
	if err := f.buf.Flush(); err != nil {
		return errClientGone
	}
	if err := f.conn.flush(); err != nil {
		return errClientGone
	}
	return nil
}
