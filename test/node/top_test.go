package node

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"mgr/test/cluster"
)

// TestTop: what nodes, pods and containers use, as `mgr top` and Prometheus read it, with nothing installed for it.
func TestTop(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	p := s.Run(cluster.Busybox("busy", "while true; do :; done"))
	row := regexp.MustCompile(`(?m)^busy\s+(\d+)m\s+(\d+)Mi$`)
	cluster.Eventually(t, 30*time.Second, "the pod's use is told", func(ctx context.Context) error {
		out := s.Mgr(ctx, "-n", s.Namespace, "top", "pods", "--no-headers")
		found := row.FindStringSubmatch(strings.TrimSpace(out.Stdout))
		if found == nil || found[1] == "0" {
			return fmt.Errorf("%q %q", out.Stdout, out.Stderr)
		}
		return nil
	})
	if out := s.Mgr(t.Context(), "-n", s.Namespace, "top", "pods", "--containers", "--no-headers"); !strings.Contains(out.Stdout, "main") {
		t.Errorf("containers: %q %q", out.Stdout, out.Stderr)
	}
	if out := s.Mgr(t.Context(), "top", "nodes", "--no-headers"); !strings.Contains(out.Stdout, "node-1") || !strings.Contains(out.Stdout, "%") {
		t.Errorf("nodes: %q %q", out.Stdout, out.Stderr)
	}
	for path, want := range map[string]string{
		"stats/summary":    `"podRef":{"name":"busy"`,
		"metrics/resource": `pod_cpu_usage_seconds_total{namespace="` + s.Namespace + `",pod="busy"}`,
		"metrics/cadvisor": `container_network_receive_bytes_total{container="",id=`,
		"metrics/probes":   "",
	} {
		out := s.Mgr(t.Context(), "get", "--raw", "/api/v1/nodes/"+p.Spec.NodeName+"/proxy/"+path)
		if out.Code != 0 || !strings.Contains(strings.ReplaceAll(out.Stdout, " \"", "\""), want) {
			t.Errorf("%s: %d %.300s %s", path, out.Code, out.Stdout, out.Stderr)
		}
	}
}

// TestLimitOfEphemeralStorage: a pod that writes more than it may is evicted, and says why.
func TestLimitOfEphemeralStorage(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	volume := cluster.Busybox("volume", "dd if=/dev/zero of=/data/big bs=1024 count=4096; exec sleep 3600")
	volume.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))}}}}
	volume.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	layer := cluster.Busybox("layer", "dd if=/dev/zero of=/big bs=1024 count=4096; exec sleep 3600")
	layer.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Mi")}
	s.Create(volume)
	s.Create(layer)
	for name, want := range map[string]string{
		"volume": `Usage of EmptyDir volume "data" exceeds the limit "1Mi". `,
		"layer":  "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
	} {
		p := s.Await(name, "has finished", cluster.Finished)
		if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "Evicted" || p.Status.Message != want {
			t.Errorf("%s: %s %s: %s", name, p.Status.Phase, p.Status.Reason, p.Status.Message)
		}
		s.AwaitEvent(name, "Evicted")
	}
}
