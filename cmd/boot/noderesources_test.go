package boot

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"mgr/agent/evict"
)

func TestNodeResources(t *testing.T) {
	good := NodeResources{
		MaxPods: 10, KubeReserved: map[string]string{"cpu": "200m", "pid": "1000"}, SystemReserved: map[string]string{"memory": "1Gi"},
		Taints: []string{"a=b:NoSchedule", "example.com/x:NoExecute"},
	}
	r, err := good.read()
	if err != nil {
		t.Fatal(err)
	}
	if r.kube.Cpu().MilliValue() != 200 || r.system.Memory().Value() != 1<<30 || len(r.taints) != 2 ||
		r.taints[0] != (corev1.Taint{Key: "a", Value: "b", Effect: "NoSchedule"}) || r.taints[1] != (corev1.Taint{Key: "example.com/x", Effect: "NoExecute"}) {
		t.Errorf("%+v", r)
	}
	for want, bad := range map[string]NodeResources{
		"--max-pods 0":                    {},
		"--kube-reserved cpu=many":        {MaxPods: 1, KubeReserved: map[string]string{"cpu": "many"}},
		"--system-reserved gpu=1":         {MaxPods: 1, SystemReserved: map[string]string{"gpu": "1"}},
		`--register-with-taints "a=b"`:    {MaxPods: 1, Taints: []string{"a=b"}},
		`--register-with-taints "a:Go"`:   {MaxPods: 1, Taints: []string{"a:Go"}},
		"--eviction-hard cpu.available=1": {MaxPods: 1, Eviction: evict.Config{Hard: map[string]string{"cpu.available": "1"}}},
	} {
		if _, err := bad.read(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestNodeLabels(t *testing.T) {
	got, err := readLabels([]string{"a=b", "topology.kubernetes.io/zone=z1", "node.kubernetes.io/x=", "my.node.kubernetes.io/y=1", "example.com/z=2"})
	if err != nil || len(got) != 5 || got["topology.kubernetes.io/zone"] != "z1" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a", "a b=c", "a=b c", "node-role.kubernetes.io/control-plane=", "x.k8s.io/y=z"} {
		if _, err := readLabels([]string{bad}); err == nil || !strings.HasPrefix(err.Error(), "--node-labels") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
