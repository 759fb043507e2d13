package api

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/fsm"
)

// selection is which objects a list or watch is about.
type selection struct {
	st        *store
	namespace string // "" for all
	name      string // set when only one object can match
	label     labels.Selector
	field     fields.Selector
}

func (st *store) selection(namespace string, options *internalversion.ListOptions) selection {
	sel := selection{st: st}
	if st.kind.Namespaced {
		sel.namespace = namespace
	}
	if options.LabelSelector != nil && !options.LabelSelector.Empty() {
		sel.label = options.LabelSelector
	}
	if options.FieldSelector != nil && !options.FieldSelector.Empty() {
		sel.field = options.FieldSelector
		if name, ok := sel.field.RequiresExactMatch("metadata.name"); ok {
			sel.name = name
		}
		if ns, ok := sel.field.RequiresExactMatch("metadata.namespace"); ok && namespace == "" && st.kind.Namespaced {
			sel.namespace = ns
		}
	}
	return sel
}

// everything says that all objects of the namespace match, so that none has to be decoded.
func (s *selection) everything() bool { return s.label == nil && s.field == nil }

// in says whether o is in the selected namespace and may have the selected name.
func (s *selection) in(o *fsm.Object) bool {
	return (s.namespace == "" || o.Key.Namespace == s.namespace) && (s.name == "" || o.Key.Name == s.name)
}

// matches says whether o is selected.
func (s *selection) matches(o *fsm.Object) (bool, error) {
	if !s.in(o) {
		return false, nil
	}
	if s.everything() {
		return true, nil
	}
	d, err := decodedOf(s.st.row, o)
	if err != nil {
		return false, err
	}
	if s.label != nil && !s.label.Matches(d.labels) {
		return false, nil
	}
	if s.field == nil {
		return true, nil
	}
	if s.st.kind.FromStored == nil {
		return s.field.Matches(d.fields), nil
	}
	obj, err := s.st.convert(d.obj)
	if err != nil {
		return false, err
	}
	served, err := newDecoded(s.st.kind, obj)
	if err != nil {
		return false, err
	}
	return s.field.Matches(served.fields), nil
}

// page is the answer to a list: the objects, and the list's metadata.
type page struct {
	items []*fsm.Object
	meta  metav1.ListMeta
}

// list reads one page.
func (st *store) list(ctx context.Context, options *internalversion.ListOptions) (page, error) {
	q := st.quorum(ctx)
	sel := st.selection(request.NamespaceValue(ctx), options)
	from, err := st.listView(ctx, q, options, sel.namespace)
	if err != nil {
		return page{}, err
	}
	return from.page(&sel, options.Limit)
}

// listFrom is a place in a view.
type listFrom struct {
	view  fsm.View
	after string    // key after which the page begins
	began time.Time // when the first page of the list was read; zero: now
}

// listView finds the state that the list is to be read from: of the continue token, of exactly the resourceVersion
// named, or the newest, which is waited for as Kubernetes' rules for resourceVersion say.
func (st *store) listView(ctx context.Context, q Quorum, options *internalversion.ListOptions, namespace string) (listFrom, error) {
	res := st.row.Storage()
	if options.Continue != "" {
		return st.continued(ctx, q, options, namespace)
	}
	if p := pastOf(ctx); p != nil {
		v, err := q.FSM().StateAt(res, p.revision)
		if err != nil {
			return listFrom{}, tooFarBack(fmt.Sprintf("revision %d", p.revision), q.FSM().State(), res)
		}
		return listFrom{view: v}, nil
	}
	rv := options.ResourceVersion
	exact := options.ResourceVersionMatch == metav1.ResourceVersionMatchExact ||
		(options.ResourceVersionMatch == "" && options.Limit > 0 && rv != "" && rv != "0")
	if err := st.s.reached(ctx, q, rv); err != nil {
		return listFrom{}, err
	}
	if !exact {
		return listFrom{view: q.FSM().State().Resource(res)}, nil
	}
	n, err := parseVersion(rv)
	if err != nil {
		return listFrom{}, err
	}
	v, err := q.FSM().StateAt(res, n)
	if err != nil {
		return listFrom{}, tooOld(n, q)
	}
	return listFrom{view: v}, nil
}

func tooOld(rv uint64, q Quorum) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rv, q.FSM().State().Revision()))
}

func parseVersion(rv string) (uint64, error) {
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: it must be a decimal number", rv))
	}
	return n, nil
}

// page collects up to limit selected objects (0: all).
func (f listFrom) page(sel *selection, limit int64) (page, error) {
	p := page{meta: metav1.ListMeta{ResourceVersion: strconv.FormatUint(f.view.Revision(), 10)}}
	if limit == 0 && f.after == "" && sel.everything() {
		p.items = make([]*fsm.Object, 0, f.view.Len(sel.namespace))
	}
	if sel.name != "" && (sel.namespace != "" || !sel.st.kind.Namespaced) && f.after == "" {
		if o := f.view.Get(sel.namespace, sel.name); o != nil {
			ok, err := sel.matches(o)
			if ok {
				p.items = append(p.items, o)
			}
			return p, err
		}
		return p, nil
	}
	var last *fsm.Object
	for o := range f.view.List(sel.namespace, f.after) {
		if limit > 0 && int64(len(p.items)) == limit {
			return p, f.more(&p, sel, last)
		}
		ok, err := sel.matches(o)
		if err != nil {
			return page{}, err
		}
		if ok {
			p.items = append(p.items, o)
			last = o
		}
	}
	return p, nil
}

// more says in p that, and how, the list goes on after last.
func (f listFrom) more(p *page, sel *selection, last *fsm.Object) error {
	path := last.Key.Name
	if last.Key.Namespace != "" {
		path = last.Key.Namespace + "/" + last.Key.Name
	}
	key := path
	if sel.namespace != "" {
		key = last.Key.Name
	}
	began := f.began
	if began.IsZero() {
		began = time.Now()
	}
	token, err := encodeToken(continueToken{Start: key + "\x00", Revision: int64(f.view.Revision()), Began: began.Unix()})
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	p.meta.Continue = token
	if sel.everything() {
		var n int64
		for range f.view.List(sel.namespace, path) {
			n++
		}
		p.meta.RemainingItemCount = &n
	}
	return nil
}

// List implements rest.Lister.
func (st *store) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	if options == nil {
		options = &internalversion.ListOptions{}
	}
	p, err := st.list(ctx, options)
	if err != nil {
		return nil, err
	}
	return st.listObject(p)
}

// listObject makes the typed list of a page. Items are shallow copies of shared objects: do not change what they hold.
func (st *store) listObject(p page) (runtime.Object, error) {
	list := st.kind.NewList()
	lm, err := meta.ListAccessor(list)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	lm.SetResourceVersion(p.meta.ResourceVersion)
	lm.SetContinue(p.meta.Continue)
	lm.SetRemainingItemCount(p.meta.RemainingItemCount)
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	v := reflect.ValueOf(items).Elem()
	v.Set(reflect.MakeSlice(v.Type(), len(p.items), len(p.items)))
	for i, o := range p.items {
		obj, err := st.served(o)
		if err != nil {
			return nil, err
		}
		v.Index(i).Set(reflect.ValueOf(obj).Elem())
		v.Index(i).FieldByName("TypeMeta").SetZero()
	}
	return list, nil
}
