package cli

import (
	"context"
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"mgr/api"
)

// ref is an object or, without a name, all objects of a resource in a namespace ("": in all).
type ref struct {
	*meta.RESTMapping
	namespace, name string
}

// refs reads KIND/NAME…, "KIND NAME…" and KIND as kubectl does, but for objects that need not exist.
func (c *env) refs(args []string, allNamespaces bool) ([]ref, error) {
	namespace, _, err := c.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	if allNamespaces {
		namespace = ""
	}
	mapper, err := c.flags.ToRESTMapper()
	if err != nil {
		return nil, err
	}
	var out []ref
	add := func(kind, name string) error {
		m, err := mappingOf(mapper, kind)
		if err != nil {
			return err
		}
		r := ref{RESTMapping: m, name: name}
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			r.namespace = namespace
		}
		out = append(out, r)
		return nil
	}
	if !strings.Contains(args[0], "/") {
		names := args[1:]
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			if strings.Contains(name, "/") {
				return nil, usagef("%q after a kind: write KIND NAME NAME, or KIND/NAME KIND/NAME", name)
			}
			if err := add(args[0], name); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	for _, arg := range args {
		kind, name, ok := strings.Cut(arg, "/")
		if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
			return nil, usagef("%q is not KIND/NAME", arg)
		}
		if err := add(kind, name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mappingOf finds a resource by any of its names: "deploy", "deployments.apps", "Deployment".
func mappingOf(mapper meta.RESTMapper, name string) (*meta.RESTMapping, error) {
	full, group := schema.ParseResourceArg(strings.ToLower(name))
	var kind schema.GroupVersionKind
	if full != nil {
		kind, _ = mapper.KindFor(*full)
	}
	if kind.Empty() {
		var err error
		if kind, err = mapper.KindFor(group.WithVersion("")); err != nil {
			return nil, fmt.Errorf("the server knows no %q: `mgr api-resources` lists what there is", name)
		}
	}
	return mapper.RESTMapping(kind.GroupKind(), kind.Version)
}

// String is as kubectl names objects: deployment.apps/web.
func (r ref) String() string {
	kind := strings.ToLower(r.GroupVersionKind.Kind)
	if r.Resource.Group != "" {
		kind += "." + r.Resource.Group
	}
	return kind + "/" + r.name
}

// path is the object's or the list's place below the server's address.
func (r ref) path() string {
	parts := []string{"/apis", r.Resource.Group, r.Resource.Version}
	if r.Resource.Group == "" {
		parts = []string{"/api", r.Resource.Version}
	}
	if r.namespace != "" {
		parts = append(parts, "namespaces", r.namespace)
	}
	return path.Join(append(parts, r.Resource.Resource, r.name)...)
}

// readHistory gets the history of the object or list.
func readHistory(ctx context.Context, client kubernetes.Interface, r ref, parameters ...string) (api.History, error) {
	h, err := read[api.History](ctx, client, r, parameters...)
	if err == nil && h.Kind != "History" {
		err = errNoPast
	}
	return h, err
}

// read gets a document of the object or list; parameters are names and values, those without a value are left out.
func read[T any](ctx context.Context, client kubernetes.Interface, r ref, parameters ...string) (T, error) {
	var v T
	request := client.CoreV1().RESTClient().Get().AbsPath(r.path())
	for i := 0; i < len(parameters); i += 2 {
		if parameters[i+1] != "" {
			request = request.Param(parameters[i], parameters[i+1])
		}
	}
	result := request.Do(ctx)
	if err := result.Error(); err != nil {
		return v, err
	}
	body, err := result.Raw()
	if err != nil {
		return v, err
	}
	return v, decode(body, &v)
}
