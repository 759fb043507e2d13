package resource

import corev1 "k8s.io/api/core/v1"

// CopyTopology gives a pod the zone and region of the node that it is bound to, as labels, so that it can read them through the
// downward API (KEP-4742). Labels of these names that the pod has are replaced.
func CopyTopology(pod *corev1.Pod, node *corev1.Node) {
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		value, ok := node.Labels[key]
		if !ok {
			continue
		}
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		pod.Labels[key] = value
	}
}
