package resource

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutil "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

func validateNamespace(f *findings, ns, old *corev1.Namespace) {
	metadataAnew(f, ns, old, false, apivalidation.ValidateNamespaceName)
	namespaceFinalizers(f, ns, old)
}

func validateNamespaceFinalizers(f *findings, ns, old *corev1.Namespace) {
	metadata(f, ns, old, false, apivalidation.ValidateNamespaceName)
	namespaceFinalizers(f, ns, old)
}

func namespaceFinalizers(f *findings, ns, old *corev1.Namespace) {
	for i, name := range ns.Spec.Finalizers {
		at := field.NewPath("spec", "finalizers")
		if old != nil {
			at = at.Index(i)
		}
		f.add(apivalidation.ValidateFinalizerName(string(name), at)...)
		f.standardFinalizer(at, string(name))
	}
}

func validateNamespaceStatus(f *findings, ns, old *corev1.Namespace) {
	metadata(f, ns, old, false, apivalidation.ValidateNamespaceName)
	phase := field.NewPath("status", "Phase")
	switch {
	case ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceActive:
		f.invalid(phase, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
	case !ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceTerminating:
		f.invalid(phase, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
}

func validateNode(f *findings, n, old *corev1.Node) {
	metadataAnew(f, n, old, false, apivalidation.NameIsDNSSubdomain)
	if swap := n.Status.NodeInfo.Swap; swap != nil && swap.Capacity != nil {
		f.positive(field.NewPath("metadata", "nodeSwapStatus", "capacity"), *swap.Capacity) // sic
	}
	nodeParts(f, n, old)
}

// validateNodeStatus is for the agent's reports.
func validateNodeStatus(f *findings, n, old *corev1.Node) {
	metadata(f, n, old, false, apivalidation.NameIsDNSSubdomain)
	nodeParts(f, n, old)
}

// nodeParts are checked on every path.
func nodeParts(f *findings, n, old *corev1.Node) {
	avoidPods(f, n.Annotations)
	taints(f, n.Spec.Taints, field.NewPath("metadata", "taints")) // sic
	declaredFeatures(f, n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))
	for name, q := range n.Status.Capacity {
		f.quantity(field.NewPath("status", "capacity", string(name)), name, q)
	}
	for name, q := range n.Status.Allocatable {
		f.quantity(field.NewPath("status", "allocatable", string(name)), name, q)
	}
	cidrs := field.NewPath("spec", "podCIDRs")
	for i, cidr := range n.Spec.PodCIDRs {
		f.add(validation.IsValidCIDRForLegacyField(cidrs.Index(i), cidr, true, nil)...)
	}
	if len(n.Spec.PodCIDRs) > 1 {
		dual, err := netutil.IsDualStackCIDRStrings(n.Spec.PodCIDRs)
		if err != nil {
			f.add(field.InternalError(cidrs, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		}
		if !dual || len(n.Spec.PodCIDRs) > 2 {
			f.invalid(cidrs, n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family")
		}
	}
	if old != nil {
		nodeChange(f, n, old)
	}
}

// avoidPods is an annotation that an old scheduler read; its form is still checked.
func avoidPods(f *findings, annotations map[string]string) {
	text, path := annotations[corev1.PreferAvoidPodsAnnotationKey], field.NewPath("metadata", "annotations")
	if text == "" {
		return
	}
	var avoid corev1.AvoidPods
	if err := json.Unmarshal([]byte(text), &avoid); err != nil {
		f.invalid(path.Child("AvoidPods"), corev1.PreferAvoidPodsAnnotationKey, err.Error())
	}
	for i, e := range avoid.PreferAvoidPods {
		at := path.Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature")
		if owner := e.PodSignature.PodController; owner == nil {
			f.required(at, "")
		} else if !ptr.Deref(owner.Controller, false) {
			f.invalid(at.Child("PodController", "Controller"), false, "must point to a controller")
		}
	}
}

var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

// declaredFeatures of a node: sorted, each once (KEP-5328).
func declaredFeatures(f *findings, names []string, path *field.Path) {
	for i, name := range names {
		if len(name) > validation.DNS1123SubdomainMaxLength {
			f.invalid(path.Index(i), name, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", name, validation.DNS1123SubdomainMaxLength))
		} else if !featureName.MatchString(name) {
			f.invalid(path.Index(i), name, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments "+
				"separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", name))
		}
		if i == 0 {
			continue
		}
		switch before := names[i-1]; {
		case name == before:
			f.add(field.Duplicate(path.Index(i), name))
		case name < before:
			f.invalid(path.Index(i), name, "list must be sorted alphabetically")
		}
	}
}

func nodeChange(f *findings, n, old *corev1.Node) {
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		f.forbidden(field.NewPath("spec", "externalID"), "may not be updated")
	}
	if len(old.Spec.PodCIDRs) > 0 && !reflect.DeepEqual(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		f.forbidden(field.NewPath("spec", "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid")
	}
	provider := field.NewPath("spec", "providerID")
	switch was := old.Spec.ProviderID; {
	case was != "" && n.Spec.ProviderID == "":
		f.invalid(provider, nil, "field cannot be cleared once set")
	case was != "" && n.Spec.ProviderID != was:
		f.invalid(provider, nil, "field cannot be modified once set")
	}
	addresses := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if addresses[a] {
			f.add(field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
		addresses[a] = true
	}
}

func taints(f *findings, list []corev1.Taint, path *field.Path) {
	pairs := seen{}
	for i, t := range list {
		at := path.Index(i)
		f.add(metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
			f.invalid(at.Child("value"), t.Value, strings.Join(msgs, ";"))
		}
		taintEffect(f, t.Effect, at.Child("effect"))
		if pairs.again(t.Key + " " + string(t.Effect)) {
			e := field.Duplicate(at, t)
			e.Detail = "taints must be unique by key and effect pair"
			f.add(e)
		}
	}
}

func validateConfigMap(f *findings, c, old *corev1.ConfigMap) {
	metadataAnew(f, c, old, true, apivalidation.NameIsDNSSubdomain)
	if old != nil {
		data := map[string][2]any{"data": {c.Data, old.Data}, "binaryData": {c.BinaryData, old.BinaryData}}
		immutableData(f, c.Immutable, old.Immutable, data)
	}
	size := 0
	for key, value := range c.Data {
		size += len(value)
		at := field.NewPath("data").Key(key)
		f.invalid(at, key, validation.IsConfigMapKey(key)...)
		if _, twice := c.BinaryData[key]; twice {
			f.invalid(at, key, "duplicate of key present in binaryData")
		}
	}
	for key, value := range c.BinaryData {
		size += len(value)
		f.invalid(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key)...)
	}
	if size > corev1.MaxSecretSize {
		f.add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
}

// immutableData: what has been declared immutable stays so, with all it holds.
func immutableData(f *findings, immutable, was *bool, data map[string][2]any) {
	const refused = "field is immutable when `immutable` is set"
	if !ptr.Deref(was, false) {
		return
	}
	if !ptr.Deref(immutable, false) {
		f.forbidden(field.NewPath("immutable"), refused)
	}
	for name, values := range data {
		if !reflect.DeepEqual(values[0], values[1]) {
			f.forbidden(field.NewPath(name), refused)
		}
	}
}

func validateSecret(f *findings, s, old *corev1.Secret) {
	metadataAnew(f, s, old, true, apivalidation.NameIsDNSSubdomain)
	if old != nil {
		f.immutable(field.NewPath("type"), s.Type, old.Type)
		immutableData(f, s.Immutable, old.Immutable, map[string][2]any{"data": {s.Data, old.Data}})
	}
	size, data := 0, field.NewPath("data")
	for key, value := range s.Data {
		size += len(value)
		f.invalid(data.Key(key), key, validation.IsConfigMapKey(key)...)
	}
	if size > corev1.MaxSecretSize {
		f.add(field.TooLong(data, "", corev1.MaxSecretSize))
	}
	secretType(f, s, data)
}

// secretType: the well-known types have to hold what their users look for.
func secretType(f *findings, s *corev1.Secret, data *field.Path) {
	need := func(key string) bool {
		_, found := s.Data[key]
		if !found {
			f.required(data.Key(key), "")
		}
		return found
	}
	needJSON := func(key string) {
		if need(key) {
			if err := json.Unmarshal(s.Data[key], &map[string]any{}); err != nil {
				f.invalid(data.Key(key), "<secret contents redacted>", err.Error())
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		f.given(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), s.Annotations[corev1.ServiceAccountNameKey])
	case corev1.SecretTypeDockercfg:
		needJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		needJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			need(corev1.BasicAuthUsernameKey)
			need(corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		f.given(data.Key(corev1.SSHAuthPrivateKey), string(s.Data[corev1.SSHAuthPrivateKey]))
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey)
		need(corev1.TLSPrivateKeyKey)
	}
}

func validateServiceAccount(f *findings, sa, old *corev1.ServiceAccount) {
	metadataAnew(f, sa, old, true, apivalidation.ValidateServiceAccountName)
}

func validateEndpoints(f *findings, e, old *corev1.Endpoints) {
	metadataAnew(f, e, old, true, apivalidation.NameIsDNSSubdomain)
	if old != nil && reflect.DeepEqual(e.Subsets, old.Subsets) {
		return // what was let in before the rules may stay
	}
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			f.required(at, "must specify `addresses` or `notReadyAddresses`")
		}
		for j := range s.Addresses {
			endpointAddress(f, &s.Addresses[j], at.Child("addresses").Index(j))
		}
		for j := range s.NotReadyAddresses {
			endpointAddress(f, &s.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))
		}
		for j := range s.Ports {
			p, at := &s.Ports[j], at.Child("ports").Index(j)
			if p.Name != "" {
				f.dnsLabel(at.Child("name"), p.Name)
			} else if len(s.Ports) > 1 {
				f.required(at.Child("name"), "")
			}
			f.port(at.Child("port"), p.Port)
			oneOf(f, at.Child("protocol"), p.Protocol, protocols...)
			if p.AppProtocol != nil {
				f.qualifiedName(at.Child("appProtocol"), *p.AppProtocol)
			}
		}
	}
}

func endpointAddress(f *findings, a *corev1.EndpointAddress, at *field.Path) {
	f.ip(at.Child("ip"), a.IP)
	if a.Hostname != "" {
		f.dnsLabel(at.Child("hostname"), a.Hostname)
	}
	if a.NodeName != nil {
		f.invalid(at.Child("nodeName"), *a.NodeName, apivalidation.NameIsDNSSubdomain(*a.NodeName, false)...)
	}
	f.endpointIP(at.Child("ip"), a.IP)
}

// endpointIP: traffic may not be sent to addresses that mean something else on every host.
func (f *findings) endpointIP(path *field.Path, value string) {
	ip := netutil.ParseIPSloppy(value)
	switch {
	case ip == nil:
		f.invalid(path, value, "must be a valid IP address")
	case ip.IsUnspecified():
		f.invalid(path, value, fmt.Sprintf("may not be unspecified (%v)", value))
	case ip.IsLoopback():
		f.invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	case ip.IsLinkLocalUnicast():
		f.invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	case ip.IsLinkLocalMulticast():
		f.invalid(path, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}
