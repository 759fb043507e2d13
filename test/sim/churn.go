package sim

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// What nodes have.
var (
	cpus     = resource.MustParse("8")
	memory   = resource.MustParse("16Gi")
	mostPods = resource.MustParse("50")
)

const (
	deploymentsPath = "/apis/apps/v1/namespaces/" + namespace + "/deployments"
	servicesPath    = "/api/v1/namespaces/" + namespace + "/services"
	apps            = 3
	mostReplicas    = 4
)

// runChurn creates, scales, changes and deletes deployments and services.
func (w *world) runChurn(ctx context.Context, c *client) {
	for i := 0; ctx.Err() == nil; i++ {
		w.churn(ctx, c, c.random.IntN(apps), i)
		c.sleep(ctx, 50*time.Millisecond, 25*w.plan.pace)
	}
}

func (w *world) churn(ctx context.Context, c *client, app, i int) {
	name, addr := "app-"+strconv.Itoa(app), c.anywhere()
	path := deploymentsPath + "/" + name
	replicas := c.random.IntN(mostReplicas + 1)
	switch k := c.random.IntN(12); {
	case k < 1:
		_, _, _ = c.call(ctx, addr, http.MethodDelete, path, url.Values{"propagationPolicy": {"Background"}}, nil)
	case k < 4:
		_, _, _ = c.call(ctx, addr, http.MethodPatch, path, nil, map[string]any{"spec": map[string]any{"replicas": replicas}})
	case k < 6: // a new template
		_, _, _ = c.call(ctx, addr, http.MethodPatch, path, nil, map[string]any{"spec": map[string]any{"template": map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{"round": strconv.Itoa(i % 3)}}}}})
	case k < 8:
		port := map[string]any{"port": 80}
		spec := map[string]any{"selector": map[string]any{"app": name}, "ports": []any{port}}
		if app == 0 {
			spec["type"] = "NodePort"
		}
		_, _, _ = c.call(ctx, addr, http.MethodPost, servicesPath, nil, map[string]any{"apiVersion": "v1", "kind": "Service",
			"metadata": map[string]any{"name": fmt.Sprintf("%s-%d", name, i%2)}, "spec": spec})
	case k < 9:
		_, _, _ = c.call(ctx, addr, http.MethodDelete, servicesPath+"/"+fmt.Sprintf("%s-%d", name, i%2), nil, nil)
	default:
		_, _, _ = c.call(ctx, addr, http.MethodPost, deploymentsPath, nil, deployment(name, replicas))
	}
}

func deployment(name string, replicas int) map[string]any {
	labels := map[string]any{"app": name}
	return map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": name}, "spec": map[string]any{
		"replicas": replicas, "selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{
			"terminationGracePeriodSeconds": 1,
			"containers":                    []any{map[string]any{"name": "c", "image": "i"}},
		}},
	}}
}
