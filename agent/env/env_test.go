package env

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "B": "$(A)"}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$$(A)": "$(A)", "$$$(A)": "$1", "$(C)": "$(C)",
		"$(B)": "$(A)", "$(A": "$(A", "$": "$", "$A": "$A", "a$$": "a$", "$()": "$()", "${A}": "${A}", "$$$$(A)": "$$(A)",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpandKeepsTextWithoutDollar(f *testing.F) {
	f.Add("a$(b)c")
	f.Fuzz(func(t *testing.T, s string) {
		got := Expand(s, func(string) (string, bool) { return "", false })
		if !strings.Contains(s, "$") && got != s {
			t.Errorf("%q became %q", s, got)
		}
		if len(got) > len(s) {
			t.Errorf("%q grew to %q", s, got)
		}
	})
}

type objects struct{}

func (objects) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if name != "cm" {
		return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
	}
	return &v1.ConfigMap{Data: map[string]string{"k": "v", "B": "fromcm"}}, nil
}

func (objects) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if name != "s" {
		return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
	}
	return &v1.Secret{Data: map[string][]byte{"pw": []byte("hush")}}, nil
}

func testPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u-1", Labels: map[string]string{"b": "2", "a": "1"}, Annotations: map[string]string{"x": "y\nz"}},
		Spec: v1.PodSpec{ServiceAccountName: "sa", Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Limits:   v1.ResourceList{"memory": resource.MustParse("64Mi"), "cpu": resource.MustParse("1500m")},
			Requests: v1.ResourceList{"cpu": resource.MustParse("250m")},
		}}}},
	}
}

var facts = Facts{NodeName: "n1", HostIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, PodIPs: []netip.Addr{netip.MustParseAddr("10.42.0.2"), netip.MustParseAddr("fd00::2")},
	Allocatable: v1.ResourceList{"memory": resource.MustParse("2Gi"), "ephemeral-storage": resource.MustParse("10Gi")}}

func field(path string) *v1.EnvVarSource {
	return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
}

func res(name, divisor string) *v1.EnvVarSource {
	r := &v1.ResourceFieldSelector{Resource: name}
	if divisor != "" {
		r.Divisor = resource.MustParse(divisor)
	}
	return &v1.EnvVarSource{ResourceFieldRef: r}
}

func TestFor(t *testing.T) {
	pod := testPod()
	c := &pod.Spec.Containers[0]
	c.EnvFrom = []v1.EnvFromSource{
		{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}},
		{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "none"}, Optional: ptr.To(true)}},
	}
	c.Env = []v1.EnvVar{
		{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(DB_SERVICE_HOST)$(LATER)"}, {Name: "LATER", Value: "x"}, {Name: "A", Value: "2$(P_k)"},
		{Name: "NODE", ValueFrom: field("spec.nodeName")}, {Name: "IP", ValueFrom: field("status.podIP")}, {Name: "IPS", ValueFrom: field("status.podIPs")},
		{Name: "LABEL", ValueFrom: field("metadata.labels['a']")}, {Name: "SA", ValueFrom: field("spec.serviceAccountName")},
		{Name: "CPU", ValueFrom: res("limits.cpu", "")}, {Name: "MILLI", ValueFrom: res("requests.cpu", "1m")}, {Name: "MEM", ValueFrom: res("limits.memory", "1Mi")},
		{Name: "DISK", ValueFrom: res("limits.ephemeral-storage", "1Gi")},
		{Name: "PW", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "s"}, Key: "pw"}}},
		{Name: "NOT", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Key: "no", Optional: ptr.To(true)}}},
	}
	vars, err := For(t.Context(), pod, c, map[string]string{"DB_SERVICE_HOST": "10.43.0.9", "A": "service"}, facts, objects{})
	if err != nil {
		t.Fatal(err)
	}
	want := "P_B=fromcm P_k=v A=2v B=110.43.0.9$(LATER) LATER=x NODE=n1 IP=10.42.0.2 IPS=10.42.0.2,fd00::2 LABEL=1 SA=sa CPU=2 MILLI=250 MEM=64 DISK=10 PW=hush DB_SERVICE_HOST=10.43.0.9"
	if got := strings.Join(vars.List(), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestForFails(t *testing.T) {
	for want, e := range map[string]v1.EnvVar{
		`configmap "gone" not found`:              {Name: "X", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "gone"}, Key: "k"}}},
		"couldn't find key no in ConfigMap ns/cm": {Name: "X", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Key: "no"}}},
		"couldn't find key no in Secret ns/s":     {Name: "X", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "s"}, Key: "no"}}},
		"unsupported fieldPath: spec.nope":        {Name: "X", ValueFrom: field("spec.nope")},
	} {
		pod := testPod()
		_, err := For(t.Context(), pod, &v1.Container{Env: []v1.EnvVar{e}}, nil, facts, objects{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestFieldMaps(t *testing.T) {
	if got, _ := Field(testPod(), "metadata.labels", facts); got != "a=\"1\"\nb=\"2\"" {
		t.Errorf("labels: %s", got)
	}
	if got, _ := Field(testPod(), "metadata.annotations", facts); got != `x="y\nz"` {
		t.Errorf("annotations: %s", got)
	}
}

func TestServices(t *testing.T) {
	vars := Services([]*v1.Service{
		{ObjectMeta: metav1.ObjectMeta{Name: "my-db"}, Spec: v1.ServiceSpec{ClusterIP: "10.43.0.9", Ports: []v1.ServicePort{{Name: "sql-x", Port: 5432, Protocol: v1.ProtocolTCP}, {Name: "udp", Port: 53, Protocol: v1.ProtocolUDP}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: v1.ServiceSpec{ClusterIP: v1.ClusterIPNone, Ports: []v1.ServicePort{{Port: 1}}}},
	})
	want := map[string]string{
		"MY_DB_SERVICE_HOST": "10.43.0.9", "MY_DB_SERVICE_PORT": "5432", "MY_DB_SERVICE_PORT_SQL_X": "5432", "MY_DB_SERVICE_PORT_UDP": "53", "MY_DB_PORT": "tcp://10.43.0.9:5432",
		"MY_DB_PORT_5432_TCP": "tcp://10.43.0.9:5432", "MY_DB_PORT_5432_TCP_PROTO": "tcp", "MY_DB_PORT_5432_TCP_PORT": "5432", "MY_DB_PORT_5432_TCP_ADDR": "10.43.0.9",
		"MY_DB_PORT_53_UDP": "udp://10.43.0.9:53", "MY_DB_PORT_53_UDP_PROTO": "udp", "MY_DB_PORT_53_UDP_PORT": "53", "MY_DB_PORT_53_UDP_ADDR": "10.43.0.9",
	}
	if len(vars) != len(want) {
		t.Errorf("%d variables, want %d: %v", len(vars), len(want), vars)
	}
	for k, v := range want {
		if vars[k] != v {
			t.Errorf("%s=%q, want %q", k, vars[k], v)
		}
	}
}
