package api

import (
	"context"
	"fmt"
	"net/http"
	goruntime "runtime"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// ListWatch feeds an informer in this process straight from the state machine: no HTTP, no codec, no authorization. The
// objects are shared with every other reader and must never be changed. gvr must be in the kind table.
func (s *Server) ListWatch(gvr schema.GroupVersionResource) cache.ListerWatcher {
	e := s.byGVR[gvr]
	if e == nil {
		return missing{gvr}
	}
	return &stateFeed{st: e.store}
}

// missing is the feed of a resource that is not served.
type missing struct{ gvr schema.GroupVersionResource }

func (m missing) List(metav1.ListOptions) (runtime.Object, error) { return nil, m.err() }

func (m missing) Watch(metav1.ListOptions) (watch.Interface, error) { return nil, m.err() }

func (m missing) err() error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "list", m.gvr.GroupResource(), "", fmt.Sprintf("%s is not in the kind table", m.gvr), 0, true)
}

// stateFeed implements cache.ListerWatcher with and without contexts.
type stateFeed struct{ st *store }

var _ cache.ListerWatcherWithContext = &stateFeed{}

func (f *stateFeed) List(o metav1.ListOptions) (runtime.Object, error) {
	return f.ListWithContext(context.Background(), o)
}

func (f *stateFeed) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return f.WatchWithContext(context.Background(), o)
}

// ListWithContext returns a list of shared objects. It is always of this peer's state: what an informer wants is to
// begin at once and to miss nothing afterwards.
func (f *stateFeed) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	options, err := internalOptions(o)
	if err != nil {
		return nil, err
	}
	if options.ResourceVersion == "" {
		options.ResourceVersion = "0"
	}
	p, err := f.st.list(ctx, options)
	if err != nil {
		return nil, err
	}
	out := &internalversion.List{ListMeta: p.meta, Items: make([]runtime.Object, len(p.items))}
	var g errgroup.Group
	g.SetLimit(goruntime.GOMAXPROCS(0))
	for from := 0; from < len(p.items); from += decodeShare {
		g.Go(func() error {
			for i := from; i < min(from+decodeShare, len(p.items)); i++ {
				obj, err := f.st.served(p.items[i])
				if err != nil {
					return err
				}
				out.Items[i] = obj
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// decodeShare is how many objects of a list are decoded by one goroutine: a new leader waits for the whole list.
const decodeShare = 256

// WatchWithContext watches from o.ResourceVersion.
func (f *stateFeed) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	options, err := internalOptions(o)
	if err != nil {
		return nil, err
	}
	if options.ResourceVersion == "" {
		options.ResourceVersion = "0"
	}
	return f.st.Watch(ctx, options)
}

func internalOptions(o metav1.ListOptions) (*internalversion.ListOptions, error) {
	out := &internalversion.ListOptions{
		AllowWatchBookmarks: o.AllowWatchBookmarks, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Limit: o.Limit, Continue: o.Continue, SendInitialEvents: o.SendInitialEvents, Watch: o.Watch,
	}
	var err error
	if out.LabelSelector, err = labels.Parse(o.LabelSelector); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if out.FieldSelector, err = fields.ParseSelector(o.FieldSelector); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return out, nil
}
