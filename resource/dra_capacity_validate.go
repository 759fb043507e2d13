package resource

import (
	"fmt"
	"math"
	"strconv"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// maxRequestValues a policy may list.
const maxRequestValues = 10

// capacities of a device; only a device that can be given away several times says how its capacity is requested (KEP-5075).
func (f *findings) capacities(d *resourcev1.Device, path *field.Path) {
	for name, c := range d.Capacity {
		f.attributeName(name, path)
		if c.RequestPolicy == nil {
			continue
		}
		at := path.Key(shortened(string(name))).Child("requestPolicy")
		if !ptr.Deref(d.AllowMultipleAllocations, false) {
			f.forbidden(at, "allowMultipleAllocations must be true")
			continue
		}
		f.requestPolicy(c.RequestPolicy, c.Value, at)
	}
}

func (f *findings) requestPolicy(p *resourcev1.CapacityRequestPolicy, capacity resource.Quantity, path *field.Path) {
	values, ranged := len(p.ValidValues) > 0, p.ValidRange != nil
	switch {
	case values && ranged:
		f.forbidden(path, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)
	case values && p.Default == nil:
		f.required(path.Child("default"), "required when validValues is defined")
	case values:
		f.requestValues(p.ValidValues, *p.Default, capacity, path.Child("validValues"))
	case ranged && p.Default == nil:
		f.required(path.Child("default"), "required when validRange is defined")
	case ranged:
		f.requestRange(p.ValidRange, *p.Default, capacity, path.Child("validRange"))
	}
}

// requestValues are ascending, distinct, within the capacity, and one of them is the default.
func (f *findings) requestValues(values []resource.Quantity, usual, capacity resource.Quantity, path *field.Path) {
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			f.invalid(path.Index(i), values[i].String(), "values must be sorted in ascending order")
		}
	}
	found := false
	if n := len(values); n > maxRequestValues {
		f.add(field.TooMany(path, n, maxRequestValues))
	} else {
		known := seen{}
		for i, v := range values {
			if v.Cmp(capacity) > 0 {
				f.invalid(path.Index(i), v.String(), "option is larger than capacity value: "+capacity.String())
			}
			if key := strconv.FormatInt(v.Value(), 10); known.again(key) {
				f.add(field.Duplicate(path.Index(i), key))
			}
			found = found || v.Cmp(usual) == 0
		}
	}
	if !found {
		f.invalid(path, usual.String(), "default value is not valid according to the requestPolicy")
	}
}

func (f *findings) requestRange(r *resourcev1.CapacityRequestPolicyRange, usual, capacity resource.Quantity, path *field.Path) {
	if r.Min == nil {
		f.required(path.Child("min"), "required when validRange is defined")
		return
	}
	within := func(ok bool, name string, q *resource.Quantity, what string, bound *resource.Quantity) {
		if !ok {
			f.invalid(path.Child(name), q.String(), what+": "+bound.String())
		}
	}
	within(r.Min.Cmp(capacity) <= 0, "min", r.Min, "min is larger than capacity value", &capacity)
	within(usual.Cmp(*r.Min) >= 0, "default", &usual, "default is less than min", r.Min)
	if r.Max != nil {
		within(r.Min.Cmp(*r.Max) <= 0, "max", r.Min, "min is larger than max", r.Max)
		within(r.Max.Cmp(capacity) <= 0, "max", r.Max, "max is larger than capacity value", &capacity)
		within(usual.Cmp(*r.Max) <= 0, "default", &usual, "default is more than max", r.Max)
	}
	f.requestSteps(r, usual, capacity, path)
}

// requestSteps: the bounds can be counted with, and lie on whole steps from the lowest.
func (f *findings) requestSteps(r *resourcev1.CapacityRequestPolicyRange, usual, capacity resource.Quantity, path *field.Path) {
	if r.Step == nil {
		return
	}
	at := path.Child("step")
	if r.Step.Sign() <= 0 {
		f.invalid(at, r.Step.String(), "must be greater than zero")
		return
	}
	one := r.Min.DeepCopy()
	one.Add(*r.Step)
	if one.Cmp(capacity) > 0 {
		f.invalid(at, r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", one.String(), capacity.String()))
	}
	known := len(f.list)
	for name, q := range map[string]*resource.Quantity{"default": &usual, "min": r.Min, "max": r.Max, "step": r.Step} {
		if q != nil {
			f.int64Quantity(path.Child(name), q)
		}
	}
	if len(f.list) > known {
		return // sums with these would be wrong
	}
	f.onStep(usual, *r.Min, *r.Step, at)
	if r.Max != nil {
		f.onStep(*r.Max, *r.Min, *r.Step, at)
	}
}

// onStep: from lowest to q it is a whole number of steps. Fractions are rounded up: DRAFractionalCapacityRange is off.
func (f *findings) onStep(q, lowest, step resource.Quantity, path *field.Path) {
	if (q.Value()-lowest.Value())%step.Value() != 0 {
		f.invalid(path, q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", step.String(), lowest.String()))
	}
}

// int64Quantity is one that can be counted with: Quantity.Value overflows beyond.
func (f *findings) int64Quantity(path *field.Path, q *resource.Quantity) {
	switch {
	case q.Sign() < 0:
		f.invalid(path, q.String(), apivalidation.IsNegativeErrorMsg)
	case q.CmpInt64(math.MaxInt64) > 0:
		f.invalid(path, q.String(), "must not be larger than 9223372036854775807")
	}
}
