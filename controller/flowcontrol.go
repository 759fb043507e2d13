package controller

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	applyv1 "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	typedv1 "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"
	listersv1 "k8s.io/client-go/listers/flowcontrol/v1"
)

// Managers of fields, as Kubernetes names them.
const (
	flowSpecManager   = "api-priority-and-fairness-config-producer-v1"
	flowStatusManager = "api-priority-and-fairness-config-consumer-v1"
)

// Kinds of keys.
const (
	levelKey  = "level/"
	schemaKey = "schema/"
)

// flowControl keeps the flow schemas and priority levels that every cluster has, and says of each schema whether its level
// exists (KEP-1040). The mandatory ones stay as they are; a suggested one stays as the user leaves it.
type flowControl struct {
	client  typedv1.FlowcontrolV1Interface
	levels  listersv1.PriorityLevelConfigurationLister
	schemas listersv1.FlowSchemaLister
}

func newFlowControl(f informers.SharedInformerFactory, client kubernetes.Interface) Controller {
	v1 := f.Flowcontrol().V1()
	levels, schemas := v1.PriorityLevelConfigurations(), v1.FlowSchemas()
	c := &flowControl{client: client.FlowcontrolV1(), levels: levels.Lister(), schemas: schemas.Lister()}
	return Controller{
		Name:  "flow-control",
		Start: standardFlows(),
		Inputs: []Input{
			{Informer: levels.Informer(), Keys: c.levelKeys},
			{Informer: schemas.Informer(), Keys: func(old, new any) []string { return prefixed(schemaKey, objectKey(old, new)) }},
		},
		Outputs: []Output{
			{Resource: "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io"},
			{Resource: "flowschemas.flowcontrol.apiserver.k8s.io"},
			{Resource: "flowschemas.flowcontrol.apiserver.k8s.io", Field: "status"},
		},
		Reconcile: c.reconcile,
	}
}

func prefixed(prefix string, keys []string) []string {
	for i := range keys {
		keys[i] = prefix + keys[i]
	}
	return keys
}

// standardFlows are the keys of what every cluster has.
func standardFlows() []string {
	var keys []string
	for _, l := range slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations) {
		keys = append(keys, levelKey+l.Name)
	}
	for _, s := range slices.Concat(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas) {
		keys = append(keys, schemaKey+s.Name)
	}
	return keys
}

// levelKeys are the level and, when it comes or goes, the schemas that name it.
func (c *flowControl) levelKeys(old, new any) []string {
	name := objectKey(old, new)
	if len(name) == 0 {
		return nil
	}
	keys := []string{levelKey + name[0]}
	if old != nil && new != nil {
		return keys
	}
	schemas, err := c.schemas.List(labels.Everything())
	if err != nil {
		return keys
	}
	for _, s := range schemas {
		if s.Spec.PriorityLevelConfiguration.Name == name[0] {
			keys = append(keys, schemaKey+s.Name)
		}
	}
	return keys
}

func (c *flowControl) reconcile(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, levelKey); ok {
		return c.level(ctx, name)
	}
	name := strings.TrimPrefix(key, schemaKey)
	if err := c.schema(ctx, name); err != nil {
		return err
	}
	return c.dangling(ctx, name)
}

func (c *flowControl) level(ctx context.Context, name string) error {
	want, mandatory := standard(name, bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations)
	if want == nil {
		return nil
	}
	found, err := c.levels.Get(name)
	if apierrors.IsNotFound(err) {
		want = want.DeepCopy()
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, flowcontrolv1.AutoUpdateAnnotationKey, "true")
		_, err = c.client.PriorityLevelConfigurations().Create(ctx, want, metav1.CreateOptions{FieldManager: flowSpecManager})
		return flowError("create", "priority level", name, err)
	}
	if err != nil {
		return err
	}
	spec := *want.Spec.DeepCopy()
	if mandatory && found.Spec.Exempt != nil && spec.Exempt != nil {
		spec.Exempt = found.Spec.Exempt // what it may borrow and lend is the user's
	}
	changed := found.DeepCopy()
	if !revise(&changed.ObjectMeta, mandatory) {
		spec = found.Spec
	}
	changed.Spec = spec
	if equality.Semantic.DeepEqual(changed, found) {
		return nil
	}
	_, err = c.client.PriorityLevelConfigurations().Update(ctx, changed, metav1.UpdateOptions{FieldManager: flowSpecManager})
	return flowError("update", "priority level", name, err)
}

func (c *flowControl) schema(ctx context.Context, name string) error {
	want, mandatory := standard(name, bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas)
	if want == nil {
		return nil
	}
	found, err := c.schemas.Get(name)
	if apierrors.IsNotFound(err) {
		want = want.DeepCopy()
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, flowcontrolv1.AutoUpdateAnnotationKey, "true")
		_, err = c.client.FlowSchemas().Create(ctx, want, metav1.CreateOptions{FieldManager: flowSpecManager})
		return flowError("create", "flow schema", name, err)
	}
	if err != nil {
		return err
	}
	changed := found.DeepCopy()
	if revise(&changed.ObjectMeta, mandatory) {
		changed.Spec = *want.Spec.DeepCopy()
	}
	if equality.Semantic.DeepEqual(changed, found) {
		return nil
	}
	_, err = c.client.FlowSchemas().Update(ctx, changed, metav1.UpdateOptions{FieldManager: flowSpecManager})
	return flowError("update", "flow schema", name, err)
}

// standard returns the object of that name that every cluster has, nil for others.
func standard[T metav1.Object](name string, mandatory, suggested []T) (want T, isMandatory bool) {
	named := func(o T) bool { return o.GetName() == name }
	if i := slices.IndexFunc(mandatory, named); i >= 0 {
		return mandatory[i], true
	}
	if i := slices.IndexFunc(suggested, named); i >= 0 {
		return suggested[i], false
	}
	return want, false
}

// revise says whether the spec of a standard object is the cluster's, and notes that in the annotation by which users take it
// over: a suggested object is theirs when it says "false", or says nothing and was changed.
func revise(m *metav1.ObjectMeta, mandatory bool) bool {
	said, err := strconv.ParseBool(m.Annotations[flowcontrolv1.AutoUpdateAnnotationKey])
	ours := mandatory || said && err == nil || err != nil && m.Generation == 1
	if err != nil || said != ours {
		metav1.SetMetaDataAnnotation(m, flowcontrolv1.AutoUpdateAnnotationKey, strconv.FormatBool(ours))
	}
	return ours
}

// dangling notes whether the level that a schema names exists.
func (c *flowControl) dangling(ctx context.Context, name string) error {
	s, err := c.schemas.Get(name)
	if err != nil {
		return ignoreNotFound(err)
	}
	level := s.Spec.PriorityLevelConfiguration.Name
	is, reason, what := flowcontrolv1.ConditionFalse, "Found", "it exists"
	if _, err := c.levels.Get(level); apierrors.IsNotFound(err) {
		is, reason, what = flowcontrolv1.ConditionTrue, "NotFound", "but there is no such object"
	} else if err != nil {
		return err
	}
	if is == flowcontrolv1.ConditionFalse {
		what = "and " + what
	}
	message := fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q %s", level, what)
	for _, c := range s.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling && c.Status == is && c.Reason == reason && c.Message == message {
			return nil
		}
	}
	status := applyv1.FlowSchema(name).WithStatus(applyv1.FlowSchemaStatus().WithConditions(applyv1.FlowSchemaCondition().
		WithType(flowcontrolv1.FlowSchemaConditionDangling).WithStatus(is).WithReason(reason).WithMessage(message).
		WithLastTransitionTime(metav1.NewTime(time.Now()))))
	_, err = c.client.FlowSchemas().ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: flowStatusManager, Force: true})
	return flowError("report on", "flow schema", name, ignoreNotFound(err))
}

// flowError says what failed; what came in between is looked at when it shows.
func flowError(verb, what, name string, err error) error {
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("%s %s %s: %w", verb, what, name, err)
}
