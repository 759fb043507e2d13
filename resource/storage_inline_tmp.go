package resource

import (
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (f *findings) persistentVolumeSpec(path *field.Path, spec *corev1.PersistentVolumeSpec, name string, inline bool) {
}
func validatePersistentVolume(f *findings, o, old *corev1.PersistentVolume) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validatePersistentVolumeStatus(f *findings, o, old *corev1.PersistentVolume) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func warnPersistentVolume(_, _ *corev1.PersistentVolume) []string           { return nil }
func warnPersistentVolumeClaim(_, _ *corev1.PersistentVolumeClaim) []string { return nil }
func validatePersistentVolumeClaim(f *findings, o, old *corev1.PersistentVolumeClaim) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validatePersistentVolumeClaimStatus(f *findings, o, old *corev1.PersistentVolumeClaim) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateResourceQuota(f *findings, o, old *corev1.ResourceQuota) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateResourceQuotaStatus(f *findings, o, old *corev1.ResourceQuota) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateLimitRange(f *findings, o, old *corev1.LimitRange) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateCSIDriver(f *findings, o, old *storagev1.CSIDriver) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateCSINode(f *findings, o, old *storagev1.CSINode) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateCSIStorageCapacity(f *findings, o, old *storagev1.CSIStorageCapacity) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateIngress(f *findings, o, old *networkingv1.Ingress) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateIngressStatus(f *findings, o, old *networkingv1.Ingress) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateIngressClass(f *findings, o, old *networkingv1.IngressClass) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateNetworkPolicy(f *findings, o, old *networkingv1.NetworkPolicy) {
	metadata(f, o, old, true, apivalidation.NameIsDNSSubdomain)
}
func validateIPAddress(f *findings, o, old *networkingv1.IPAddress) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateServiceCIDR(f *findings, o, old *networkingv1.ServiceCIDR) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateServiceCIDRStatus(f *findings, o, old *networkingv1.ServiceCIDR) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateFlowSchema(f *findings, o, old *flowcontrolv1.FlowSchema) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateFlowSchemaStatus(f *findings, o, old *flowcontrolv1.FlowSchema) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validatePriorityLevel(f *findings, o, old *flowcontrolv1.PriorityLevelConfiguration) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validatePriorityLevelStatus(f *findings, o, old *flowcontrolv1.PriorityLevelConfiguration) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateMigration(f *findings, o, old *migrationv1.StorageVersionMigration) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func validateMigrationStatus(f *findings, o, old *migrationv1.StorageVersionMigration) {
	metadata(f, o, old, false, apivalidation.NameIsDNSSubdomain)
}
func nodeLabelWarnings(_ *metav1.LabelSelector, _ *field.Path) []string { return nil }
func deprecatedNodeLabel(string) string                                 { return "" }
