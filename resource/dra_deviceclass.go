package resource

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
)

// The kinds of resource.k8s.io (dynamic resource allocation, KEP-4381). Fields whose feature is alpha in 1.37 are dropped on
// write unless the stored object has them, as kube-apiserver does.

func deviceClass() *Kind {
	k := row[resourcev1.DeviceClass, resourcev1.DeviceClassList](resourcev1.SchemeGroupVersion, "DeviceClass", "deviceclasses")
	k.Namespaced = false
	k.Rules = Rules{
		Prepare:  preparing(countSpec(func(c *resourcev1.DeviceClass) *resourcev1.DeviceClassSpec { return &c.Spec })),
		Validate: validating(checked(validateDeviceClass)),
	}
	k.Columns = nameAndAge()
	k.Cells = printing(func(c *resourcev1.DeviceClass, now time.Time) []any {
		return []any{c.Name, age(c.CreationTimestamp, now)}
	})
	return k
}
