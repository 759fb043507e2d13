package resource

import (
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func flowSchema() *Kind {
	k := clusterRow[flowcontrolv1.FlowSchema, flowcontrolv1.FlowSchemaList](flowcontrolv1.SchemeGroupVersion, "FlowSchema", "flowschemas")
	spec := func(s *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaSpec { return &s.Spec }
	status := func(s *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaStatus { return &s.Status }
	k.Default = defaulting(func(s *flowcontrolv1.FlowSchema) { setDefault(&s.Spec.MatchingPrecedence, 1000) })
	k.Rules = Rules{Prepare: preparing(keepStatus(spec, status)), Validate: validating(checked(validateFlowSchema))}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(onlyStatus(status)), Validate: validating(checked(validateFlowSchemaStatus)),
	})}
	doc := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
		text("MatchingPrecedence", doc["matchingPrecedence"]),
		text("DistinguisherMethod", doc["distinguisherMethod"]),
		ageColumn(),
		text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
	}
	k.Cells = printing(func(s *flowcontrolv1.FlowSchema, now time.Time) []any {
		method, dangling := none, "?"
		if s.Spec.DistinguisherMethod != nil {
			method = string(s.Spec.DistinguisherMethod.Type)
		}
		for _, c := range s.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
				dangling = string(c.Status)
				break
			}
		}
		return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, age(s.CreationTimestamp, now), dangling}
	})
	return k
}

func priorityLevel() *Kind {
	k := clusterRow[flowcontrolv1.PriorityLevelConfiguration, flowcontrolv1.PriorityLevelConfigurationList](flowcontrolv1.SchemeGroupVersion,
		"PriorityLevelConfiguration", "prioritylevelconfigurations")
	spec := func(l *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfigurationSpec {
		return &l.Spec
	}
	status := func(l *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfigurationStatus {
		return &l.Status
	}
	k.Default = defaulting(defaultPriorityLevel)
	k.Rules = Rules{Prepare: preparing(keepStatus(spec, status)), Validate: validating(checked(validatePriorityLevel))}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(onlyStatus(status)), Validate: validating(checked(validatePriorityLevelStatus)),
	})}
	queuing := flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
		text("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
		text("Queues", queuing["queues"]),
		text("HandSize", queuing["handSize"]),
		text("QueueLengthLimit", queuing["queueLengthLimit"]),
		ageColumn(),
	}
	k.Cells = printing(func(l *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
		var shares, queues, hand, length any = none, none, none, none
		if limited := l.Spec.Limited; limited != nil {
			shares = int64(ptr.Deref(limited.NominalConcurrencyShares, 0))
			if q := limited.LimitResponse.Queuing; q != nil {
				queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
			}
		}
		return []any{l.Name, string(l.Spec.Type), shares, queues, hand, length, age(l.CreationTimestamp, now)}
	})
	return k
}

func defaultPriorityLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	if limited := l.Spec.Limited; limited != nil {
		setDefaultPtr(&limited.NominalConcurrencyShares, 30)
		setDefaultPtr(&limited.LendablePercent, 0)
		if q := limited.LimitResponse.Queuing; q != nil {
			setDefault(&q.HandSize, 8)
			setDefault(&q.Queues, 64)
			setDefault(&q.QueueLengthLimit, 50)
		}
	}
	if exempt := l.Spec.Exempt; exempt != nil {
		setDefaultPtr(&exempt.NominalConcurrencyShares, 0)
		setDefaultPtr(&exempt.LendablePercent, 0)
	}
}
