package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/api"
	"mgr/api/admission"
	"mgr/api/apitest"
	"mgr/fsm"
)

// withQuota is a server with all of admission and a namespace "default" with a quota.
func withQuota(t testing.TB, hard string, change ...func(*api.Config)) *apitest.Server {
	t.Helper()
	s := apitest.New(t, append(change, func(c *api.Config) {
		c.Admission = admission.New(admission.Config{Reader: api.NewReader(c.Quorum)})
	})...)
	ctx := context.Background()
	_, err := s.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.Client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(t, err)
	if hard != "" {
		_, err = s.Client.CoreV1().ResourceQuotas("default").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(hard)}}, metav1.CreateOptions{})
		must(t, err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func amounts(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func used(t testing.TB, s *apitest.Server, name corev1.ResourceName) string {
	t.Helper()
	q, err := s.Client.CoreV1().ResourceQuotas("default").Get(context.Background(), "q", metav1.GetOptions{})
	must(t, err)
	v, ok := q.Status.Used[name]
	if !ok {
		return "unknown"
	}
	return v.String()
}

func TestQuotaIsCountedWithTheWrite(t *testing.T) {
	s := withQuota(t, "pods=2 requests.cpu=3")
	ctx, pods := context.Background(), s.Client.CoreV1().Pods("default")
	make := func(name, cpu string, dry ...string) error {
		p := pod(name)
		p.Spec.Containers[0].Resources.Requests = amounts("cpu=" + cpu)
		_, err := pods.Create(ctx, p, metav1.CreateOptions{DryRun: dry})
		return err
	}
	must(t, make("a", "2"))
	if got := used(t, s, "pods") + " " + used(t, s, "requests.cpu"); got != "1 2" {
		t.Errorf("after the first pod %s is used", got)
	}
	want := `pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=2, used: requests.cpu=2, limited: requests.cpu=3`
	for _, dry := range [][]string{nil, {metav1.DryRunAll}} {
		if err := make("b", "2", dry...); !apierrors.IsForbidden(err) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	must(t, make("b", "1", metav1.DryRunAll))
	if got := used(t, s, "pods"); got != "1" {
		t.Errorf("a dry run made it %s", got)
	}
	if err := make("a", "1"); !apierrors.IsAlreadyExists(err) || used(t, s, "pods") != "1" {
		t.Errorf("a name that is taken: %v, %s used", err, used(t, s, "pods"))
	}
	if _, err := pods.Create(ctx, pod("silent"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "failed quota: q: must specify requests.cpu for: main") {
		t.Errorf("a pod that does not say what it needs: %v", err)
	}
	must(t, make("b", "1"))
	want = `pods "c" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=2,requests.cpu=3, limited: pods=2,requests.cpu=3`
	if err := make("c", "1"); !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestQuotaCountsWhatWasThereBefore(t *testing.T) {
	s := withQuota(t, "")
	ctx := context.Background()
	for i := range 3 {
		_, err := s.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("old-", i)}}, metav1.CreateOptions{})
		must(t, err)
	}
	_, err := s.Client.CoreV1().ResourceQuotas("default").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("count/configmaps=3")}}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{})
	want := "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=3, limited: count/configmaps=3"
	if !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = s.Client.CoreV1().ResourceQuotas("default").Patch(ctx, "q", types.MergePatchType, []byte(`{"spec":{"hard":{"count/configmaps":"4"}}}`), metav1.PatchOptions{})
	must(t, err)
	_, err = s.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{})
	must(t, err)
	if got := used(t, s, "count/configmaps"); got != "4" {
		t.Errorf("%s are counted", got)
	}
}

func TestQuotaCountsUpdates(t *testing.T) {
	s := withQuota(t, "services=5 services.nodeports=1")
	ctx, services := context.Background(), s.Client.CoreV1().Services("default")
	for _, name := range []string{"a", "b"} {
		_, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
		must(t, err)
	}
	toNodePort := func(name string) error {
		_, err := services.Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"type":"NodePort"}}`), metav1.PatchOptions{})
		return err
	}
	must(t, toNodePort("a"))
	if got := used(t, s, "services.nodeports") + " of " + used(t, s, "services"); got != "1 of 2" {
		t.Errorf("%s", got)
	}
	if err := toNodePort("b"); !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1") {
		t.Errorf("got %v", err)
	}
}

// slow lets commands wait for each other as a log does, and counts them.
type slow struct {
	*api.Bare
	commands atomic.Int64
	gate     chan struct{}
	arrived  chan struct{} // nil: nobody wants to know
}

func (q *slow) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if q.arrived != nil {
		q.arrived <- struct{}{}
	}
	<-q.gate
	q.commands.Add(1)
	return q.Bare.Propose(ctx, cmd)
}

// TestQuotaIsNeverExceededInARace sends more creates at once than there is room for, some of them twice.
func TestQuotaIsNeverExceededInARace(t *testing.T) {
	q := &slow{gate: make(chan struct{})}
	open := make(chan struct{})
	var gate sync.WaitGroup
	gate.Go(func() {
		for {
			select {
			case q.gate <- struct{}{}:
			case <-open:
				return
			}
		}
	})
	t.Cleanup(func() { close(open); gate.Wait() })
	s := withQuota(t, "count/configmaps=40", func(c *api.Config) {
		q.Bare = c.Quorum.(*api.Bare)
		c.Quorum = q
	})
	before := q.commands.Load()
	var made, full, twice atomic.Int64
	var writers sync.WaitGroup
	for i := range 120 {
		writers.Go(func() {
			name := fmt.Sprint("c-", i/2) // each name is tried twice
			_, err := s.Client.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			switch {
			case err == nil:
				made.Add(1)
			case apierrors.IsAlreadyExists(err):
				twice.Add(1)
			case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=40, limited: count/configmaps=40"):
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if made.Load() != 40 || made.Load()+full.Load()+twice.Load() != 120 {
		t.Errorf("%d were made, %d refused for the quota, %d for their names; want 40 made of 120", made.Load(), full.Load(), twice.Load())
	}
	list, err := s.Client.CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	must(t, err)
	if len(list.Items) != 40 || used(t, s, "count/configmaps") != "40" {
		t.Errorf("%d are there, %s are counted", len(list.Items), used(t, s, "count/configmaps"))
	}
	t.Logf("%d commands for 40 writes", q.commands.Load()-before)
}

// TestQuotaIsWeighedAgainWhenSomebodyElseChangesIt has the status rewritten between the look at it and the write.
func TestQuotaIsWeighedAgainWhenSomebodyElseChangesIt(t *testing.T) {
	var s *apitest.Server
	meddle := &meddler{}
	s = withQuota(t, "pods=5", func(c *api.Config) {
		meddle.Bare = c.Quorum.(*api.Bare)
		c.Quorum = meddle
	})
	ctx := context.Background()
	_, err := s.Client.CoreV1().Pods("default").Create(ctx, pod("first"), metav1.CreateOptions{})
	must(t, err)
	meddle.before = func() {
		_, err := s.Client.CoreV1().ResourceQuotas("default").Patch(ctx, "q", types.MergePatchType, []byte(`{"status":{"used":{"pods":"5"}}}`), metav1.PatchOptions{}, "status")
		must(t, err)
	}
	_, err = s.Client.CoreV1().Pods("default").Create(ctx, pod("second"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "used: pods=5, limited: pods=5") {
		t.Errorf("got %v", err)
	}
}

// meddler does something once, before the next write of two objects.
type meddler struct {
	*api.Bare
	before func()
}

func (q *meddler) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if f := q.before; f != nil && len(cmd.Ops) == 2 {
		q.before = nil
		f()
	}
	return q.Bare.Propose(ctx, cmd)
}

// TestWhoWaitsForAQuotaCanGiveUp has one write on its way and one behind it whose client leaves.
func TestWhoWaitsForAQuotaCanGiveUp(t *testing.T) {
	q := &slow{gate: make(chan struct{}, 100)}
	for range 10 {
		q.gate <- struct{}{}
	}
	s := withQuota(t, "count/configmaps=9", func(c *api.Config) {
		q.Bare = c.Quorum.(*api.Bare)
		c.Quorum = q
	})
	for len(q.gate) > 0 {
		<-q.gate // shut it
	}
	q.arrived = make(chan struct{}, 100)
	configs := s.Client.CoreV1().ConfigMaps("default")
	var first sync.WaitGroup
	first.Go(func() {
		_, err := configs.Create(context.Background(), configMap("first", nil), metav1.CreateOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	<-q.arrived // it has the turn
	leave, gone := context.WithCancel(context.Background())
	var second sync.WaitGroup
	second.Go(func() {
		if _, err := configs.Create(leave, configMap("second", nil), metav1.CreateOptions{}); err == nil {
			t.Error("who left was told of success")
		}
	})
	gone()
	second.Wait()
	q.gate <- struct{}{}
	q.gate <- struct{}{} // would let the second through
	first.Wait()
	_, err := configs.Get(context.Background(), "first", metav1.GetOptions{})
	must(t, err)
	if got := used(t, s, "count/configmaps"); got != "1" {
		t.Errorf("%s are counted", got)
	}
}

// BenchmarkCreatePodWithQuota is to be compared with BenchmarkCreatePod; writers share commands.
func BenchmarkCreatePodWithQuota(b *testing.B) {
	for _, hard := range []string{"", "pods=100M requests.cpu=100M"} {
		b.Run("quota:"+hard, func(b *testing.B) {
			s := withQuota(b, hard)
			var n atomic.Int64
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p := pod(fmt.Sprint("pod-", n.Add(1)))
					p.Spec.Containers[0].Resources.Requests = amounts("cpu=1m")
					p.Kind, p.APIVersion = "Pod", "v1"
					data, err := json.Marshal(p)
					if err != nil {
						b.Error(err)
						return
					}
					if w := call(b, s, "POST", benchPods, data); w.code != 201 {
						b.Errorf("create: %d", w.code)
						return
					}
				}
			})
		})
	}
}
