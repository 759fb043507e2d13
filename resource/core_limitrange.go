package resource

import corev1 "k8s.io/api/core/v1"

func limitRange() *Kind {
	k := row[corev1.LimitRange, corev1.LimitRangeList](corev1.SchemeGroupVersion, "LimitRange", "limitranges", "limits")
	k.CreateOnUpdate = true
	k.Default = defaulting(func(l *corev1.LimitRange) {
		for i := range l.Spec.Limits {
			defaultLimits(&l.Spec.Limits[i])
		}
	})
	k.Rules = Rules{
		Prepare: preparing(func(l, old *corev1.LimitRange) {
			if old == nil {
				setDefault(&l.Name, string(l.UID)) // a range may have no name of its own
			}
		}),
		Validate: validating(checked(validateLimitRange)),
	}
	return k
}

// defaultLimits of containers: what has a maximum is limited to it, what is limited requests as much, what has only a minimum
// requests that.
func defaultLimits(l *corev1.LimitRangeItem) {
	if l.Type == corev1.LimitTypeContainer {
		l.Default = withDefaults(l.Default, l.Max)
		l.DefaultRequest = withDefaults(withDefaults(l.DefaultRequest, l.Default), l.Min)
	}
	for _, list := range []corev1.ResourceList{l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio} {
		roundUp(list)
	}
}

// withDefaults returns list, never nil, with the values of others that it lacks.
func withDefaults(list, others corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	for name, q := range others {
		if _, found := list[name]; !found {
			list[name] = q.DeepCopy()
		}
	}
	return list
}
