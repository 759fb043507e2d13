package resource

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	corev1 "k8s.io/api/core/v1"
)

// findings collects what is wrong with an object. Its methods are the small rules that all kinds share; each adds what
// it finds at path and returns nothing, so that a validator reads as a list of rules.
type findings struct{ list field.ErrorList }

func (f *findings) add(errs ...*field.Error) { f.list = append(f.list, errs...) }

// invalid adds one finding for each message.
func (f *findings) invalid(path *field.Path, value any, messages ...string) {
	for _, m := range messages {
		f.add(field.Invalid(path, value, m))
	}
}

func (f *findings) forbidden(path *field.Path, why string) { f.add(field.Forbidden(path, why)) }

func (f *findings) required(path *field.Path, why string) { f.add(field.Required(path, why)) }

// given says whether a required value is there, and adds a finding when not.
func (f *findings) given(path *field.Path, value string) bool {
	if value == "" {
		f.required(path, "")
	}
	return value != ""
}

func (f *findings) nonNegative(path *field.Path, n int64) {
	f.add(apivalidation.ValidateNonnegativeField(n, path)...)
}

func (f *findings) positive(path *field.Path, n int64) {
	if n <= 0 {
		f.invalid(path, n, "must be greater than zero")
	}
}

func (f *findings) dnsLabel(path *field.Path, value string) {
	f.invalid(path, value, validation.IsDNS1123Label(value)...)
}

func (f *findings) dnsSubdomain(path *field.Path, value string) {
	f.invalid(path, value, validation.IsDNS1123Subdomain(value)...)
}

func (f *findings) qualifiedName(path *field.Path, value string) {
	f.invalid(path, value, validation.IsQualifiedName(value)...)
}

func (f *findings) labels(path *field.Path, labels map[string]string) {
	f.add(metav1validation.ValidateLabels(labels, path)...)
}

func (f *findings) port(path *field.Path, port int32) {
	f.invalid(path, port, validation.IsValidPortNum(int(port))...)
}

func (f *findings) portOrName(path *field.Path, p intstr.IntOrString) {
	if p.Type == intstr.Int {
		f.invalid(path, p.IntValue(), validation.IsValidPortNum(p.IntValue())...)
		return
	}
	f.invalid(path, p.StrVal, validation.IsValidPortName(p.StrVal)...)
}

// ip in canonical form: no leading zeros, no IPv4 mapped into IPv6 (KEP-4858).
func (f *findings) ip(path *field.Path, value string) {
	f.add(validation.IsValidIPForLegacyField(path, value, true, nil)...)
}

// immutable values must stay as they were.
func (f *findings) immutable(path *field.Path, value, old any) {
	f.add(apivalidation.ValidateImmutableField(value, old, path)...)
}

func (f *findings) fileMode(path *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		f.invalid(path, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

// oneOf requires one of the supported values, which are named in the order given; empty is missing.
func oneOf[T ~string](f *findings, path *field.Path, value T, supported ...T) {
	switch {
	case value == "":
		f.required(path, "")
	case !slices.Contains(supported, value):
		f.add(field.NotSupported(path, value, supported))
	}
}

// optionalOneOf is oneOf for a value that may be left out.
func optionalOneOf[T ~string](f *findings, path *field.Path, value *T, supported ...T) {
	if value != nil && !slices.Contains(supported, *value) {
		f.add(field.NotSupported(path, *value, supported))
	}
}

// seen remembers names and finds repeated ones.
type seen sets.Set[string]

func (s seen) again(name string) bool {
	_, found := s[name]
	s[name] = sets.Empty{}
	return found
}

// metadata checks what all objects have; nameRule says what the kind's names look like.
func metadata[E any, P object[E]](f *findings, obj, old P, namespaced bool, nameRule apivalidation.ValidateNameFunc) {
	path := field.NewPath("metadata")
	if old == nil {
		f.add(apivalidation.ValidateObjectMetaAccessor(obj, namespaced, nameRule, path)...)
	} else {
		f.add(apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, path)...)
	}
	for i, name := range obj.GetFinalizers() {
		f.standardFinalizer(path.Child("finalizers").Index(i), name)
	}
}

// metadataAnew is metadata for the kinds whose updates Kubernetes checks as if they were new objects, too.
func metadataAnew[E any, P object[E]](f *findings, obj, old P, namespaced bool, nameRule apivalidation.ValidateNameFunc) {
	metadata(f, obj, old, namespaced, nameRule)
	if old != nil {
		f.add(apivalidation.ValidateObjectMetaAccessor(obj, namespaced, nameRule, field.NewPath("metadata"))...)
	}
}

// plainMetadata is metadata for kinds whose finalizers need no domain.
func plainMetadata[E any, P object[E]](f *findings, obj, old P, namespaced bool, nameRule apivalidation.ValidateNameFunc) {
	if old == nil {
		f.add(apivalidation.ValidateObjectMetaAccessor(obj, namespaced, nameRule, field.NewPath("metadata"))...)
		return
	}
	f.add(apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))...)
}

// templateMetadata of objects that a template makes: labels and annotations, nothing else.
func (f *findings) templateMetadata(m *metav1.ObjectMeta, path *field.Path) {
	f.add(apivalidation.ValidateAnnotations(m.Annotations, path.Child("annotations"))...)
	f.labels(path.Child("labels"), m.Labels)
	value := reflect.ValueOf(*m)
	for i := range value.NumField() {
		name := value.Type().Field(i).Name
		if name != "Annotations" && name != "Labels" && !value.Field(i).IsZero() {
			f.forbidden(path.Child(strings.ToLower(name[:1])+name[1:]), "cannot be set")
		}
	}
}

// standardFinalizer: a name without a domain is one of Kubernetes' own.
func (f *findings) standardFinalizer(path *field.Path, name string) {
	switch {
	case strings.Contains(name, "/"):
	case name == string(corev1.FinalizerKubernetes), name == metav1.FinalizerOrphanDependents, name == metav1.FinalizerDeleteDependents:
	default:
		f.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")
	}
}

// checked puts a validator on a kind's own type behind the table's signature.
func checked[E any, P object[E]](rules func(f *findings, obj, old P)) func(obj, old P) field.ErrorList {
	return func(obj, old P) field.ErrorList {
		var f findings
		rules(&f, obj, old)
		return f.list
	}
}

// quantity of a resource: not negative, and whole for what comes in pieces.
func (f *findings) quantity(path *field.Path, name corev1.ResourceName, q resource.Quantity) {
	if q.Cmp(resource.Quantity{}) < 0 {
		f.invalid(path, q.String(), apivalidation.IsNegativeErrorMsg)
	}
	if (isCounted(name) || isExtended(name)) && q.MilliValue()%1000 != 0 {
		f.invalid(path, q, "must be an integer")
	}
}

// isNative resources are Kubernetes' own: cpu, memory, hugepages-2Mi, …
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended resources are devices that nodes advertise under a domain of their own.
func isExtended(name corev1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// canOvercommit says whether limits may be above what is requested.
func canOvercommit(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

// isContainerResource says whether containers can ask for a native resource.
func isContainerResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return true
	}
	return isHugePages(name)
}

// isQuotaResource says whether a name without a domain is one that quotas count.
func isQuotaResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	return isCounted(name) || isHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// isCounted says whether a quota counts objects by a name, so that only whole numbers make sense.
func isCounted(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return false
}

// containerResource is the rule of resource names in a container's requests and limits.
func (f *findings) containerResource(path *field.Path, name corev1.ResourceName) {
	f.resourceName(path, name)
	switch {
	case !strings.Contains(string(name), "/") && !isContainerResource(name):
		f.invalid(path, name, "must be a standard resource for containers")
	case !isNative(name) && !isExtended(name):
		f.invalid(path, name, "doesn't follow extended resource name standard")
	}
}
