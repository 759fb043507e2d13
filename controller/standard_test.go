package controller

import (
	"errors"
	"fmt"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Every cluster has Kubernetes' flow schemas and priority levels: the mandatory ones as they are, the suggested ones until the
// user takes one over.
func TestStandardFlows(t *testing.T) {
	c := newCluster(t)
	defer c.lead()()
	ctx, v1 := t.Context(), c.Client.FlowcontrolV1()
	c.eventually("all schemas are there and name levels that are there", func() error {
		list, err := v1.FlowSchemas().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, s := range list.Items {
			if d := s.Status.Conditions; len(d) != 1 || d[0].Status != flowcontrolv1.ConditionFalse || d[0].Reason != "Found" {
				return fmt.Errorf("%s has %v", s.Name, d)
			}
		}
		if levels, err := v1.PriorityLevelConfigurations().List(ctx, metav1.ListOptions{}); err != nil || len(list.Items)+len(levels.Items) != len(standardFlows()) {
			return fmt.Errorf("%d schemas, %d levels, %v", len(list.Items), len(levels.Items), err)
		}
		return nil
	})

	c.must(nil, v1.FlowSchemas().Delete(ctx, "catch-all", metav1.DeleteOptions{}))
	c.eventually("a mandatory schema comes back", func() error {
		_, err := v1.FlowSchemas().Get(ctx, "catch-all", metav1.GetOptions{})
		return err
	})
	exempt, err := v1.PriorityLevelConfigurations().Get(ctx, "exempt", metav1.GetOptions{})
	c.must(exempt, err)
	exempt.Spec.Exempt.LendablePercent = ptr.To(int32(40))
	delete(exempt.Annotations, flowcontrolv1.AutoUpdateAnnotationKey)
	c.must(v1.PriorityLevelConfigurations().Update(ctx, exempt, metav1.UpdateOptions{}))
	c.eventually("the exempt level is the cluster's again and lends what the user said", func() error {
		l, err := v1.PriorityLevelConfigurations().Get(ctx, "exempt", metav1.GetOptions{})
		if err == nil && (l.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] != "true" || *l.Spec.Exempt.LendablePercent != 40) {
			err = fmt.Errorf("it is %+v", l)
		}
		return err
	})
}

// A suggested level belongs to the user who says so, or who changed it before anybody said anything.
func TestSuggestedFlowsCanBeTakenOver(t *testing.T) {
	for _, x := range []struct {
		said       string
		generation int64
		mandatory  bool
		ours       bool
	}{
		{"true", 3, false, true}, {"false", 1, false, false}, {"", 1, false, true}, {"", 2, false, false}, {"perhaps", 2, false, false},
		{"false", 2, true, true},
	} {
		m := metav1.ObjectMeta{Generation: x.generation}
		if x.said != "" {
			m.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: x.said}
		}
		if ours := revise(&m, x.mandatory); ours != x.ours || m.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] != fmt.Sprint(x.ours) {
			t.Errorf("%+v: ours %v, annotations %v", x, ours, m.Annotations)
		}
	}
}

func TestDanglingFlowSchema(t *testing.T) {
	c := newCluster(t)
	defer c.lead()()
	ctx, v1 := t.Context(), c.Client.FlowcontrolV1()
	c.must(v1.FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "later"},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: "g"}}},
				NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
			}},
		},
	}, metav1.CreateOptions{}))
	dangles := func(want string) func() error {
		return func() error {
			s, err := v1.FlowSchemas().Get(ctx, "mine", metav1.GetOptions{})
			if err == nil && (len(s.Status.Conditions) != 1 || s.Status.Conditions[0].Reason != want) {
				err = fmt.Errorf("it has %v", s.Status.Conditions)
			}
			return err
		}
	}
	c.eventually("the schema dangles", dangles("NotFound"))
	c.must(v1.PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "later"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}, metav1.CreateOptions{}))
	c.eventually("the schema has its level", dangles("Found"))
	c.must(nil, v1.PriorityLevelConfigurations().Delete(ctx, "later", metav1.DeleteOptions{}))
	c.eventually("the schema dangles again", dangles("NotFound"))
}

func TestServiceCIDRs(t *testing.T) {
	c := newCluster(t)
	defer c.lead()()
	ctx, cidrs := t.Context(), c.Client.NetworkingV1().ServiceCIDRs()
	says := func(name string, status metav1.ConditionStatus, reason string) func() error {
		return func() error {
			o, err := cidrs.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			r := meta.FindStatusCondition(o.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
			if r == nil || r.Status != status || r.Reason != reason {
				return fmt.Errorf("it says %v", o.Status.Conditions)
			}
			return nil
		}
	}
	c.eventually("the network of services is told", says("kubernetes", metav1.ConditionTrue, ""))
	o, err := cidrs.Get(ctx, "kubernetes", metav1.GetOptions{})
	c.must(o, err)
	if fmt.Sprint(o.Spec.CIDRs, o.Finalizers) != "[10.43.0.0/16] ["+serviceCIDRFinalizer+"]" {
		t.Errorf("it is %v with finalizers %v", o.Spec.CIDRs, o.Finalizers)
	}
	c.must(cidrs.Create(ctx, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/16"}},
	}, metav1.CreateOptions{}))
	c.eventually("another network is said not to be used", says("more", metav1.ConditionFalse, "NotSupported"))
	c.must(nil, cidrs.Delete(ctx, "kubernetes", metav1.DeleteOptions{}))
	c.eventually("the network stays while services have its addresses", says("kubernetes", metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating))
	c.must(nil, cidrs.Delete(ctx, "more", metav1.DeleteOptions{}))
	if _, err := cidrs.Get(ctx, "more", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the other network: %v", err)
	}
}

func TestStorageMigrations(t *testing.T) {
	c := newCluster(t)
	defer c.lead()()
	ctx, migrations := t.Context(), c.Client.StoragemigrationV1().StorageVersionMigrations()
	c.must(migrations.Create(ctx, &migrationv1.StorageVersionMigration{
		ObjectMeta: metav1.ObjectMeta{Name: "deployments"},
		Spec:       migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "apps", Resource: "deployments"}},
	}, metav1.CreateOptions{}))
	c.eventually("what is served is migrated", func() error {
		m, err := migrations.Get(ctx, "deployments", metav1.GetOptions{})
		if err == nil && (!meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationSucceeded)) || m.Status.ResourceVersion == "") {
			err = errors.New("it is " + fmt.Sprint(m.Status))
		}
		return err
	})
}

// What nobody serves gets a minute to be served and then fails; what has an outcome keeps it.
func TestMigrationOutcome(t *testing.T) {
	m := &migrationv1.StorageVersionMigration{
		ObjectMeta: metav1.ObjectMeta{Name: "m", CreationTimestamp: metav1.NewTime(time.Now()), ResourceVersion: "7"},
		Spec:       migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "example.org", Resource: "things"}},
	}
	failed := settled(m, false)
	if failed == nil || !meta.IsStatusConditionTrue(failed.Status.Conditions, string(migrationv1.MigrationFailed)) || failed.Status.ResourceVersion != "" {
		t.Fatalf("an unknown resource: %+v", failed)
	}
	if again := settled(failed, true); again != nil {
		t.Errorf("an outcome changed: %+v", again.Status)
	}
	if done := settled(m, true); done == nil || done.Status.ResourceVersion != "7" || len(m.Status.Conditions) != 0 {
		t.Errorf("a served resource: %+v, from %+v", done, m.Status)
	}
}
