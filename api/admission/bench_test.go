package admission_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/api"
	"mgr/api/admission"
	"mgr/api/apitest"
)

// BenchmarkCreatePod is what the whole chain costs a pod in a namespace without quota, limits and labels.
func BenchmarkCreatePod(b *testing.B) {
	s := apitest.New(b)
	ctx := context.Background()
	if _, err := s.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Client.CoreV1().ServiceAccounts("ns").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	chain := admission.New(admission.Config{Reader: api.NewReader(s.Quorum)})
	mutate, validate := chain.(k8sadmission.MutationInterface), chain.(k8sadmission.ValidationInterface)
	who := &user.DefaultInfo{Name: "mgr-admin"}
	b.ReportAllocs()
	for b.Loop() {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		a := k8sadmission.NewAttributesRecord(p, nil, corev1.SchemeGroupVersion.WithKind("Pod"), "ns", "p",
			schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "", k8sadmission.Create, nil, false, who)
		if err := mutate.Admit(ctx, a, nil); err != nil {
			b.Fatal(err)
		}
		if err := validate.Validate(ctx, a, nil); err != nil {
			b.Fatal(err)
		}
	}
}
