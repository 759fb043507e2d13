package api

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"mgr/fsm"
)

// plainProtobuf says whether the client's first choice is protobuf of the objects themselves, as it is for client-go.
func plainProtobuf(r *http.Request) bool {
	first, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	switch strings.TrimSpace(first) {
	case protobufType, protobufType + ";stream=watch":
		return true
	}
	return false
}

// recentFrames keeps the frames of the last events of one resource, so that an event is encoded once for all its watchers.
type recentFrames [256]atomic.Pointer[frame]

type frame struct {
	object *fsm.Object
	typ    watch.EventType
	data   []byte
}

// of returns the frame of an event: its length in four bytes, and a metav1.WatchEvent with the object in its envelope.
func (c *recentFrames) of(e *endpoint, typ watch.EventType, o *fsm.Object) ([]byte, error) {
	slot := &c[o.Revision%uint64(len(c))]
	if f := slot.Load(); f != nil && f.object == o && f.typ == typ {
		return f.data, nil
	}
	d, err := decodedOf(e.kind, o)
	if err != nil {
		return nil, err
	}
	data, err := e.protoFrame(string(typ), d.obj)
	if err != nil {
		return nil, err
	}
	slot.Store(&frame{object: o, typ: typ, data: data})
	return data, nil
}

func (e *endpoint) protoFrame(typ string, obj runtime.Object) ([]byte, error) {
	info, ok := runtime.SerializerInfoForMediaType(e.store.s.codecs.SupportedMediaTypes(), protobufType)
	if !ok {
		return nil, fmt.Errorf("no encoder for %s", protobufType)
	}
	var body bytes.Buffer
	if err := info.Serializer.Encode(obj, &body); err != nil {
		return nil, fmt.Errorf("encoding an event of %s: %w", e.kind.GVK(), err)
	}
	event := metav1.WatchEvent{Type: typ, Object: runtime.RawExtension{Raw: body.Bytes()}}
	data := make([]byte, 4+event.Size())
	binary.BigEndian.PutUint32(data, uint32(len(data)-4))
	if _, err := event.MarshalTo(data[4:]); err != nil {
		return nil, fmt.Errorf("encoding an event of %s: %w", e.kind.GVK(), err)
	}
	return data, nil
}

// protoWriter is the sink of a watch of protobuf.
type protoWriter struct{ frameWriter }

func (f *protoWriter) write(data []byte, err error) error {
	if err != nil {
		return err
	}
	if _, err := f.buf.Write(data); err != nil {
		return errClientGone
	}
	return nil
}

func (f *protoWriter) send(typ watch.EventType, o *fsm.Object) error {
	return f.write(f.e.frames.of(f.e, typ, o))
}

func (f *protoWriter) bookmark(revision uint64, initial bool) error {
	obj, err := f.e.store.bookmark(revision, initial)
	if err != nil {
		return err
	}
	return f.write(f.e.protoFrame(string(watch.Bookmark), obj))
}

func (f *protoWriter) fail(err error) {
	if f.write(f.e.protoFrame(string(watch.Error), statusObject(err))) == nil {
		_ = f.flush()
	}
}

// bookmark is an object that says nothing but how far a watch is.
func (st *store) bookmark(revision uint64, initial bool) (runtime.Object, error) {
	obj := st.kind.New()
	setKind(obj, st.kind.GVK())
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(strconv.FormatUint(revision, 10))
	if initial {
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj, nil
}
