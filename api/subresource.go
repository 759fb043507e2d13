package api

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"mgr/resource"
)

// specialSub is a subresource with code of its own, by verb ("*": all of them); nil: it is not served.
func (s *Server) specialSub(e *endpoint, sub *resource.Subresource) map[string]http.Handler {
	switch sub.Name {
	case "scale":
		return s.scaleHandlers(e)
	case "binding":
		return s.postHandler(e, sub, &bindingStore{pods: e.store})
	case "eviction":
		return s.postHandler(e, sub, newEvictionStore(s))
	case "token":
		return s.postHandler(e, sub, &tokenStore{s: s})
	}
	return s.connect(e, sub.Name)
}

// bodyScope is the scope of a subresource whose body is a kind of its own.
func (s *Server) bodyScope(e *endpoint, sub string, new func() runtime.Object) *handlers.RequestScope {
	scope := s.scope(e.kind, sub)
	scope.Kind, _ = kindOf(new())
	scope.HubGroupVersion = scope.Kind.GroupVersion()
	scope.Serializer = codecs{CodecFactory: s.codecs, defaulter: noDefaults{}}
	scope.Defaulter = noDefaults{}
	scope.AcceptsGroupVersionDelegate = anyVersion{}
	return scope
}

// anyVersion leaves it to the decoder to refuse what is not the wanted type.
type anyVersion struct{}

func (anyVersion) AcceptsGroupVersion(gv schema.GroupVersion) bool { return true }

// postHandler serves a subresource that takes a body by POST.
func (s *Server) postHandler(e *endpoint, sub *resource.Subresource, st rest.NamedCreater) map[string]http.Handler {
	scope := s.bodyScope(e, sub.Name, st.New)
	return map[string]http.Handler{"create": s.managed(scope, managedfields.NewDeducedTypeConverter, func(sc *handlers.RequestScope) http.HandlerFunc {
		return handlers.CreateNamedResource(st, sc, s.cfg.Admission)
	})}
}

// tokenStore makes service-account tokens.
type tokenStore struct{ s *Server }

func (t *tokenStore) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate implements rest.SubresourceObjectMetaPreserver: the uid in a
// request says for which account it is meant.
func (t *tokenStore) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (t *tokenStore) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest("a TokenRequest is needed")
	}
	if t.s.cfg.Tokens == nil {
		return nil, unavailable("issuing tokens")
	}
	req.ManagedFields = nil // it is never stored
	if validate != nil {
		if err := validate(ctx, obj); err != nil {
			return nil, err
		}
	}
	return t.s.cfg.Tokens.Issue(ctx, request.NamespaceValue(ctx), name, req)
}

// bindingStore assigns pods to nodes.
type bindingStore struct{ pods *store }

func (b *bindingStore) New() runtime.Object { return &corev1.Binding{} }

func (b *bindingStore) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest("a Binding is needed")
	}
	if errs := validateBinding(binding); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), name, errs)
	}
	if validate != nil {
		if err := validate(ctx, obj); err != nil {
			return nil, err
		}
	}
	if err := b.pods.bind(ctx, name, binding, dryrun.IsDryRun(options.DryRun)); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, nil
}

// bindingKind is the older way to bind a pod, which names it in the object instead of in the path.
func bindingKind() *resource.Kind {
	return &resource.Kind{
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("bindings"), Kind: "Binding", Singular: "binding", Namespaced: true,
		Verbs: []string{"create"}, New: func() runtime.Object { return &corev1.Binding{} },
	}
}

func (s *Server) bindingEndpoint(k *resource.Kind, pods *store) *endpoint {
	scope, st := s.scope(k, ""), &olderBindingStore{bindingStore{pods}}
	return &endpoint{kind: k, scope: scope, verbs: map[string]http.Handler{
		"create": s.managed(scope, managedfields.NewDeducedTypeConverter, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.CreateResource(st, sc, s.cfg.Admission)
		}),
	}}
}

type olderBindingStore struct{ bindingStore }

// Create implements rest.Creater.
func (b *olderBindingStore) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest("a Binding is needed")
	}
	return b.bindingStore.Create(ctx, binding.Name, obj, validate, options)
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if kind := b.Target.Kind; kind != "" && kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

var (
	_ rest.NamedCreater = &bindingStore{}
	_ rest.NamedCreater = &tokenStore{}

	_ rest.SubresourceObjectMetaPreserver = &tokenStore{}

	_ rest.Patcher = &scaleStore{}
)

// scaleStore shows and sets the number of replicas of a workload.
type scaleStore struct {
	st *store // of the workload
}

func (c *scaleStore) New() runtime.Object { return &autoscalingv1.Scale{} }
func (c *scaleStore) Destroy()            {}

func (c *scaleStore) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := c.st.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return scaleOf(c.st.kind, obj)
}

func (c *scaleStore) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, onCreate rest.ValidateObjectFunc, onUpdate rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	validate := func(ctx context.Context, obj, old runtime.Object) error {
		scale, err := scaleOf(c.st.kind, obj)
		if err != nil {
			return err
		}
		was, err := scaleOf(c.st.kind, old)
		if err != nil {
			return err
		}
		if onUpdate == nil {
			return nil
		}
		return onUpdate(ctx, scale, was)
	}
	out, _, err := c.st.Update(ctx, name, &scaleInfo{kind: c.st.kind, info: info}, onCreate, validate, false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := scaleOf(c.st.kind, out)
	return scale, false, err
}

// scaleInfo turns an update of the scale into one of the workload.
type scaleInfo struct {
	kind *resource.Kind
	info rest.UpdatedObjectInfo
}

func (i *scaleInfo) Preconditions() *metav1.Preconditions { return i.info.Preconditions() }

func (i *scaleInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	was, err := scaleOf(i.kind, old)
	if err != nil {
		return nil, err
	}
	changed, err := i.info.UpdatedObject(ctx, was)
	if err != nil {
		return nil, err
	}
	scale, ok := changed.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest("a Scale is needed")
	}
	if scale.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), scale.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0")})
	}
	obj := old.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if scale.ResourceVersion != "" {
		m.SetResourceVersion(scale.ResourceVersion)
	}
	if scale.UID != "" && scale.UID != m.GetUID() {
		m.SetUID(scale.UID)
	}
	if entries, err := scaleFields(i.kind, m).ToParent(scale.ManagedFields); err == nil {
		m.SetManagedFields(entries)
	}
	replicas := scale.Spec.Replicas
	*replicasOf(obj) = &replicas
	return obj, nil
}

// scaleHandlers serve the scale subresource.
func (s *Server) scaleHandlers(e *endpoint) map[string]http.Handler {
	if replicasOf(e.kind.New()) == nil {
		return nil
	}
	st := &scaleStore{st: e.store}
	scope := s.bodyScope(e, "scale", st.New)
	scope.TableConvertor = scaleTable{}
	return map[string]http.Handler{
		"get": perRequest(func() http.HandlerFunc { return handlers.GetResource(st, scope) }),
		"update": s.managed(scope, managedfields.NewDeducedTypeConverter, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.UpdateResource(st, sc, s.cfg.Admission)
		}),
		"patch": s.managed(scope, managedfields.NewDeducedTypeConverter, func(sc *handlers.RequestScope) http.HandlerFunc {
			return handlers.PatchResource(st, sc, s.cfg.Admission, patchTypes)
		}),
	}
}
