package resource

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// mostJobRules bounds the rules of a policy, and the conditions in one rule.
const mostJobRules = 20

// jobPolicies: what failed pods mean (KEP-3329), when a job has succeeded (KEP-3998), when pods are replaced (KEP-3939).
func jobPolicies(f *findings, spec *batchv1.JobSpec, path *field.Path) {
	if spec.PodFailurePolicy != nil {
		rules := path.Child("podFailurePolicy", "rules")
		if n := len(spec.PodFailurePolicy.Rules); n > mostJobRules {
			f.add(field.TooMany(rules, n, mostJobRules))
		}
		for i := range spec.PodFailurePolicy.Rules {
			failureRule(f, spec, &spec.PodFailurePolicy.Rules[i], rules.Index(i))
		}
	}
	if spec.SuccessPolicy != nil {
		if at := path.Child("successPolicy"); isIndexed(spec) {
			successPolicy(f, spec, at.Child("rules"))
		} else {
			f.invalid(at, *spec.SuccessPolicy, "requires indexed completion mode")
		}
	}
	if spec.PodFailurePolicy != nil {
		optionalOneOf(f, path.Child("podReplacementPolicy"), spec.PodReplacementPolicy, batchv1.Failed)
	} else {
		optionalOneOf(f, path.Child("podReplacementPolicy"), spec.PodReplacementPolicy, batchv1.Failed, batchv1.TerminatingOrFailed)
	}
}

// named is oneOf that lists the values for who named none.
func named[T ~string](f *findings, path *field.Path, value T, supported ...T) {
	if value == "" {
		f.required(path, fmt.Sprintf("valid values: %q", supported))
		return
	}
	oneOf(f, path, value, supported...)
}

func failureRule(f *findings, spec *batchv1.JobSpec, rule *batchv1.PodFailurePolicyRule, path *field.Path) {
	if at := path.Child("action"); rule.Action == batchv1.PodFailurePolicyActionFailIndex {
		if spec.BackoffLimitPerIndex == nil {
			f.invalid(at, rule.Action, "requires the backoffLimitPerIndex to be set")
		}
	} else {
		named(f, at, rule.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
	}
	if rule.OnExitCodes != nil {
		exitCodes(f, spec, rule.OnExitCodes, path.Child("onExitCodes"))
	}
	at := path.Child("onPodConditions")
	if n := len(rule.OnPodConditions); n > mostJobRules {
		f.add(field.TooMany(at, n, mostJobRules))
	}
	for i, c := range rule.OnPodConditions {
		f.qualifiedName(at.Index(i).Child("type"), string(c.Type))
		named(f, at.Index(i).Child("status"), c.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
	}
	switch codes, conditions := rule.OnExitCodes != nil, len(rule.OnPodConditions) > 0; {
	case codes && conditions:
		f.invalid(path, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
	case !codes && !conditions:
		f.invalid(path, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
	}
}

func exitCodes(f *findings, spec *batchv1.JobSpec, r *batchv1.PodFailurePolicyOnExitCodesRequirement, path *field.Path) {
	const most = 255
	named(f, path.Child("operator"), r.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	is := func(c corev1.Container) bool { return c.Name == *r.ContainerName }
	if r.ContainerName != nil && !slices.ContainsFunc(spec.Template.Spec.Containers, is) && !slices.ContainsFunc(spec.Template.Spec.InitContainers, is) {
		f.invalid(path.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template")
	}
	at := path.Child("values")
	if len(r.Values) == 0 {
		f.invalid(at, r.Values, "at least one value is required")
	} else if len(r.Values) > most {
		f.add(field.TooMany(at, len(r.Values), most))
	}
	known := map[int32]bool{}
	for i, code := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			f.invalid(at.Index(i), code, "must not be 0 for the In operator")
		}
		if known[code] {
			f.add(field.Duplicate(at.Index(i), code))
		}
		known[code] = true
	}
	if !slices.IsSorted(r.Values) {
		f.invalid(at, r.Values, "must be ordered")
	}
}

func successPolicy(f *findings, spec *batchv1.JobSpec, path *field.Path) {
	rules := spec.SuccessPolicy.Rules
	if len(rules) == 0 {
		f.required(path, "at least one rules must be specified when the successPolicy is specified")
	}
	if len(rules) > mostJobRules {
		f.add(field.TooMany(path, len(rules), mostJobRules))
	}
	for i := range rules {
		successRule(f, spec, &rules[i], path.Index(i))
	}
}

func successRule(f *findings, spec *batchv1.JobSpec, rule *batchv1.SuccessPolicyRule, path *field.Path) {
	const longest = 64 << 10 // bytes
	if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
		f.required(path, "at least one of succeededCount or succeededIndexes must be specified")
	}
	if spec.Completions == nil {
		return // has a finding of its own
	}
	total := int32(0)
	if rule.SucceededIndexes != nil {
		at := path.Child("succeededIndexes")
		if len(*rule.SucceededIndexes) > longest {
			f.add(field.TooLong(at, "", longest))
		}
		intervals, err := parseIndexes(*rule.SucceededIndexes, *spec.Completions)
		if err != nil {
			f.invalid(at, *rule.SucceededIndexes, "error parsing succeededIndexes: "+err.Error())
		} else {
			total = countIndexes(intervals)
		}
	}
	if n := rule.SucceededCount; n != nil {
		at := path.Child("succeededCount")
		f.nonNegative(at, int64(*n))
		if *n > *spec.Completions {
			f.invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *spec.Completions))
		}
		if rule.SucceededIndexes != nil && *n > total {
			f.invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total))
		}
	}
}

// indexInterval is a run of a job's indexes, both ends included.
type indexInterval struct{ from, to int32 }

// parseIndexes reads a list such as "1,3-5", which must rise and stay below completions.
func parseIndexes(text string, completions int32) ([]indexInterval, error) {
	if text == "" {
		return nil, nil
	}
	var out []indexInterval
	for _, part := range strings.Split(text, ",") {
		interval, err := parseInterval(part, completions)
		if err != nil {
			return nil, err
		}
		if n := len(out); n > 0 && out[n-1].to >= interval.from {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", out[n-1].to, interval.from)
		}
		out = append(out, interval)
	}
	return out, nil
}

func parseInterval(text string, completions int32) (indexInterval, error) {
	ends := strings.Split(text, "-")
	if len(ends) > 2 {
		return indexInterval{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	numbers := make([]int, len(ends))
	for i, end := range ends {
		n, err := strconv.Atoi(end)
		switch {
		case err != nil:
			return indexInterval{}, fmt.Errorf("cannot convert string to integer for index: %q", end)
		case n >= int(completions):
			return indexInterval{}, fmt.Errorf("too large index: %q", end)
		}
		numbers[i] = n
	}
	from, to := numbers[0], numbers[len(numbers)-1]
	if len(numbers) == 2 && from >= to {
		return indexInterval{}, fmt.Errorf("non-increasing order, previous: %d, current: %d", from, to)
	}
	return indexInterval{int32(from), int32(to)}, nil
}

func countIndexes(intervals []indexInterval) int32 {
	var n int32
	for _, i := range intervals {
		n += i.to - i.from + 1
	}
	return n
}

// overlap returns the first index that is in both lists.
func overlap(a, b []indexInterval) (int32, bool) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].from <= b[0].to && b[0].from <= a[0].to:
			return max(a[0].from, b[0].from), true
		case a[0].from <= b[0].from:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return 0, false
}
