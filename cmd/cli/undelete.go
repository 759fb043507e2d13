package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"mgr/api"
)

// undelete is one run of mgr undelete.
type undelete struct {
	*env
	output, selector string
	revision         uint64
	cascade, list    bool
	dryRun           cmdutil.DryRunStrategy

	client  kubernetes.Interface
	dynamic dynamic.Interface
	mapper  meta.RESTMapper
	back    map[types.UID]types.UID // of what was brought back: old → new
	failed  []error
}

func newUndelete(c *env) *cobra.Command {
	u := &undelete{env: c, back: map[types.UID]types.UID{}}
	cmd := &cobra.Command{
		Use:   "undelete KIND/NAME | KIND NAME... | KIND -l SELECTOR",
		Short: "Bring back what was deleted",
		Long: `Create deleted objects again, from their last form in the history of the cluster.

They come back as new objects: with a new UID, without status, and without what the server or a controller had assigned (a
pod's node; a service's addresses are kept if they are still free). History is bounded, see 'mgr history'. --cascade also
brings back what was deleted with them: dependents that no controller makes anew, and all that was in a namespace.`,
		Example: `  mgr undelete deployments --list
  mgr undelete deployment/web
  mgr undelete configmap/settings --at-revision 812
  mgr undelete secrets -l app=shop --dry-run=server
  mgr undelete namespace/shop --cascade`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if u.dryRun, err = cmdutil.GetDryRunStrategy(cmd); err != nil {
				return usageError{err}
			}
			return u.run(cmd.Context(), args)
		},
		ValidArgsFunction: u.complete,
	}
	cmd.Flags().StringVarP(&u.output, "output", "o", "", "print the objects: json, yaml, or name")
	cmd.Flags().StringVarP(&u.selector, "selector", "l", "", "bring back all deleted objects with these labels, such as app=web")
	cmd.Flags().Uint64Var(&u.revision, "at-revision", 0, "bring back the form that the objects had at a revision, instead of the last one")
	cmd.Flags().BoolVar(&u.cascade, "cascade", false, "also bring back what was deleted with them")
	cmd.Flags().BoolVar(&u.list, "list", false, "only show what can be brought back")
	cmdutil.AddDryRunFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "name"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (u *undelete) run(ctx context.Context, args []string) error {
	switch u.output {
	case "", "json", "yaml", "name":
	default:
		return usagef("unknown output format %q: use json, yaml or name", u.output)
	}
	refs, err := u.refs(args, false)
	if err != nil {
		return err
	}
	if err := u.connect(); err != nil {
		return err
	}
	if u.list {
		return u.show(ctx, refs)
	}
	var wanted []ref
	for _, r := range refs {
		switch {
		case r.name != "" && u.selector != "":
			return usagef("--selector chooses among all deleted objects of a kind: leave the name away")
		case r.name != "":
			wanted = append(wanted, r)
		case u.selector == "":
			return usagef("which %s? Name them, choose with -l, or see what there is with --list", r.Resource.Resource)
		default:
			found, err := u.deleted(ctx, r, u.selector)
			if err != nil {
				return err
			}
			if len(found.Changes) == 0 {
				return fmt.Errorf("no deleted %s match %q: history begins at %s", r.Resource.Resource, u.selector, found.Begins)
			}
			for _, c := range found.Changes {
				wanted = append(wanted, ref{r.RESTMapping, c.Namespace, c.Name})
			}
		}
	}
	for _, r := range wanted {
		if err := u.one(ctx, r); err != nil {
			u.failed = append(u.failed, err)
		}
	}
	return errors.Join(u.failed...)
}

func (u *undelete) connect() error {
	config, err := u.config()
	if err != nil {
		return err
	}
	config.QPS = -1 // --cascade asks for every kind
	if u.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if u.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return err
	}
	u.mapper, err = u.flags.ToRESTMapper()
	return err
}

// deleted lists what is gone of a resource.
func (u *undelete) deleted(ctx context.Context, r ref, selector string) (api.History, error) {
	r.name = ""
	return readHistory(ctx, u.client, r, "history", "deleted", "labelSelector", selector)
}

// show lists what can be brought back.
func (u *undelete) show(ctx context.Context, refs []ref) error {
	err := show(u.Out, "", nil, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tDELETED\tBY\tREVISION")
		for _, r := range refs {
			h, err := u.deleted(ctx, r, u.selector)
			if err != nil {
				u.failed = append(u.failed, err)
				continue
			}
			for _, c := range h.Changes {
				if r.name == "" || r.name == c.Name {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", ref{r.RESTMapping, c.Namespace, c.Name}, since(&c), cut(c.Actor, 40), c.Revision)
				}
			}
		}
	})
	return errors.Join(append(u.failed, err)...)
}

// one brings one object back, and with it what depended on it.
func (u *undelete) one(ctx context.Context, r ref) error {
	last, at, err := u.lastForm(ctx, r)
	if err != nil {
		return err
	}
	if err := u.create(ctx, r, last); err != nil {
		return err
	}
	if !u.cascade {
		return nil
	}
	return u.dependents(ctx, r, last, at)
}

// lastForm finds the form to bring back, and when the object was deleted.
func (u *undelete) lastForm(ctx context.Context, r ref) (*unstructured.Unstructured, *api.Change, error) {
	h, err := readHistory(ctx, u.client, r, "history", "changes")
	if err != nil {
		return nil, nil, err
	}
	if len(h.Object) > 0 {
		now := &unstructured.Unstructured{}
		if err := now.UnmarshalJSON(h.Object); err != nil {
			return nil, nil, err
		}
		if now.GetDeletionTimestamp() != nil {
			return nil, nil, fmt.Errorf("%s is still being deleted: wait until it is gone (`mgr wait --for=delete %s`)", r, r)
		}
		return nil, nil, fmt.Errorf("%s exists; to put an older form in its place: `mgr get %s -o yaml --at-revision N | mgr replace -f -`", r, r)
	}
	if len(h.Changes) == 0 {
		return nil, nil, fmt.Errorf("%s is not in the history, which begins at %s", r, h.Begins)
	}
	last := &h.Changes[len(h.Changes)-1]
	body := last.Object
	if u.revision > 0 {
		old, err := read[unstructured.Unstructured](ctx, u.client, r, "atRevision", strconv.FormatUint(u.revision, 10))
		return &old, last, err
	}
	form := &unstructured.Unstructured{}
	return form, last, form.UnmarshalJSON(body)
}

// create posts an old form as a new object.
func (u *undelete) create(ctx context.Context, r ref, last *unstructured.Unstructured) error {
	obj, notes := renewed(last)
	owners, lost, err := u.owners(ctx, r.namespace, last.GetOwnerReferences())
	if err != nil {
		return err
	}
	obj.SetOwnerReferences(owners)
	notes = append(notes, lost...)
	if u.dryRun == cmdutil.DryRunClient {
		return u.done(r, obj, notes)
	}
	options := metav1.CreateOptions{FieldManager: "mgr-undelete"}
	if u.dryRun == cmdutil.DryRunServer {
		options.DryRun = []string{metav1.DryRunAll}
	}
	made, err := u.at(r).Create(ctx, obj, options)
	if apierrors.IsInvalid(err) && r.Resource.Resource == "services" {
		// Somebody else has its addresses by now.
		notes = append(notes, "its addresses or node ports are taken, it has new ones")
		withoutAddresses(obj)
		made, err = u.at(r).Create(ctx, obj, options)
	}
	if err != nil {
		return fmt.Errorf("bring back %s: %w", r, err)
	}
	u.back[last.GetUID()] = made.GetUID()
	return u.done(r, made, notes)
}

func (u *undelete) at(r ref) dynamic.ResourceInterface {
	if r.namespace == "" {
		return u.dynamic.Resource(r.Resource)
	}
	return u.dynamic.Resource(r.Resource).Namespace(r.namespace)
}

func (u *undelete) done(r ref, obj *unstructured.Unstructured, notes []string) error {
	switch u.output {
	case "name":
		fmt.Fprintln(u.Out, r)
	case "":
		dry := map[cmdutil.DryRunStrategy]string{cmdutil.DryRunClient: " (dry run)", cmdutil.DryRunServer: " (server dry run)"}[u.dryRun]
		fmt.Fprintf(u.Out, "%s is back%s\n", r, dry)
	default:
		if u.output == "yaml" {
			fmt.Fprintln(u.Out, "---")
		}
		if err := show(u.Out, u.output, obj.Object, nil); err != nil {
			return err
		}
	}
	for _, n := range notes {
		fmt.Fprintf(u.ErrOut, "%s: %s\n", r, n)
	}
	return nil
}

// owners keeps the owners that are there; those that were brought back have new UIDs.
func (u *undelete) owners(ctx context.Context, namespace string, refs []metav1.OwnerReference) (kept []metav1.OwnerReference, lost []string, err error) {
	for _, o := range refs {
		if uid := u.back[o.UID]; uid != "" {
			o.UID = uid
			kept = append(kept, o)
			continue
		}
		group, version, _ := strings.Cut(o.APIVersion, "/")
		if version == "" {
			group, version = "", group
		}
		if m, err := u.mapper.RESTMapping(groupKind(group, o.Kind), version); err == nil {
			owner := ref{RESTMapping: m, name: o.Name}
			if m.Scope.Name() == meta.RESTScopeNameNamespace {
				owner.namespace = namespace
			}
			now, err := u.at(owner).Get(ctx, o.Name, metav1.GetOptions{})
			if err == nil && now.GetUID() == o.UID {
				kept = append(kept, o)
				continue
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, nil, fmt.Errorf("look for the owner %s: %w", owner, err)
			}
		}
		lost = append(lost, fmt.Sprintf("its owner %s/%s is gone, it has none now", strings.ToLower(o.Kind), o.Name))
	}
	return kept, lost, nil
}

// complete offers kinds, then the names of what was deleted.
func (u *undelete) complete(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	kind, _, slash := strings.Cut(begun, "/")
	if len(args) > 0 && !strings.Contains(args[0], "/") {
		kind, slash = args[0], false
	} else if !slash {
		return completion.ResourceTypeAndNameCompletionFunc(cmdutil.NewFactory(u.flags))(cmd, nil, begun)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
	defer cancel()
	refs, err := u.refs([]string{kind}, false)
	if err != nil || u.connect() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	h, err := u.deleted(ctx, refs[0], "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, c := range h.Changes {
		name := c.Name
		if slash {
			name = kind + "/" + name
		}
		if strings.HasPrefix(name, begun) {
			names = append(names, name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeObjects completes KIND/NAME and KIND NAME.
func completeObjects(cmd *cobra.Command, c *env) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		return completion.ResourceTypeAndNameCompletionFunc(cmdutil.NewFactory(c.flags))(cmd, args, begun)
	}
}
