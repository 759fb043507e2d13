// Package helm shows that Helm 3, as a library and unchanged, installs, upgrades, rolls back and uninstalls a chart on a
// cluster of ours. It is a module of its own: what Helm requires does not concern the product.
package helm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"

	"mgr/test/cluster"
)

const (
	namespace = "default"
	name      = "web"
	patience  = 2 * time.Minute
)

// kinds of the chart, each with one object named after the release.
var kinds = []schema.GroupVersionResource{
	{Version: "v1", Resource: "serviceaccounts"},
	{Version: "v1", Resource: "configmaps"},
	{Version: "v1", Resource: "secrets"},
	{Version: "v1", Resource: "services"},
	{Group: "apps", Version: "v1", Resource: "deployments"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
	{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
	{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
	networkPolicies,
}

var networkPolicies = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}

// helm is one user of Helm with one chart.
type helm struct {
	c     *cluster.Cluster
	do    *action.Configuration
	chart *chart.Chart
	dyn   dynamic.Interface
}

func TestHelm(t *testing.T) {
	h := start(t)
	image := map[string]any{"image": "mgr/demo:1"}

	install := action.NewInstall(h.do)
	install.ReleaseName, install.Namespace, install.Wait, install.Timeout = name, namespace, true, patience
	if _, err := install.RunWithContext(t.Context(), h.chart, image); err != nil {
		t.Fatalf("install: %v", err)
	}
	h.expect(t, kinds, nil)
	h.expectState(t, 1, "hello")

	upgrade := action.NewUpgrade(h.do)
	upgrade.Namespace, upgrade.Wait, upgrade.Timeout = namespace, true, patience
	values := map[string]any{"greeting": "good day", "replicas": 2, "policy": false}
	maps.Copy(values, image)
	if _, err := upgrade.RunWithContext(t.Context(), name, h.chart, values); err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	without := slices.DeleteFunc(slices.Clone(kinds), func(k schema.GroupVersionResource) bool { return k == networkPolicies })
	h.expect(t, without, []schema.GroupVersionResource{networkPolicies})
	h.expectState(t, 2, "good day")

	back := action.NewRollback(h.do)
	back.Version, back.Wait, back.Timeout = 1, true, patience
	if err := back.Run(name); err != nil {
		t.Fatalf("rollback: %v", err)
	}
	h.expect(t, kinds, nil)
	h.expectState(t, 1, "hello")
	h.expectHistory(t, release.StatusSuperseded, release.StatusSuperseded, release.StatusDeployed)

	remove := action.NewUninstall(h.do)
	remove.Wait, remove.Timeout = true, patience
	if _, err := remove.Run(name); err != nil {
		t.Fatalf("uninstall: %v", err)
	}
	h.expect(t, nil, kinds)
}

func start(t *testing.T) *helm {
	t.Helper()
	h := &helm{c: cluster.Start(t, cluster.Options{Name: "helm", Nodes: 1, Demo: true})}
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig = &h.c.Kubeconfig
	h.do = &action.Configuration{}
	if err := h.do.Init(flags, namespace, "secret", t.Logf); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.chart, err = loader.Load("testdata/web"); err != nil {
		t.Fatal(err)
	}
	if h.dyn, err = dynamic.NewForConfig(h.c.Config); err != nil {
		t.Fatal(err)
	}
	return h
}

// expect looks for the chart's object of each kind.
func (h *helm) expect(t *testing.T, there, gone []schema.GroupVersionResource) {
	t.Helper()
	get := func(ctx context.Context, k schema.GroupVersionResource) error {
		_, err := h.dyn.Resource(k).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
		return err
	}
	for _, k := range there {
		if err := get(t.Context(), k); err != nil {
			t.Errorf("%s: %v", k.Resource, err)
		}
	}
	for _, k := range gone {
		cluster.Eventually(t, patience, k.Resource+" gone", func(ctx context.Context) error {
			if err := get(ctx, k); !apierrors.IsNotFound(err) {
				return fmt.Errorf("get: %v, want not found", err)
			}
			return nil
		})
	}
}

// expectState checks what the chart's values decide: --wait came back, so the pods are ready.
func (h *helm) expectState(t *testing.T, replicas int32, greeting string) {
	t.Helper()
	d, err := h.c.Kube.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Status.ReadyReplicas < replicas || *d.Spec.Replicas != replicas {
		t.Errorf("deployment: %d of %d ready, want %d", d.Status.ReadyReplicas, *d.Spec.Replicas, replicas)
	}
	m, err := h.c.Kube.CoreV1().ConfigMaps(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Data["greeting"] != greeting {
		t.Errorf("config map: %q, want %q", m.Data["greeting"], greeting)
	}
}

func (h *helm) expectHistory(t *testing.T, want ...release.Status) {
	t.Helper()
	releases, err := action.NewHistory(h.do).Run(name)
	if err != nil {
		t.Fatal(err)
	}
	var got []release.Status
	for _, r := range releases {
		got = append(got, r.Info.Status)
	}
	if !slices.Equal(got, want) {
		t.Errorf("history: %v, want %v", got, want)
	}
}
