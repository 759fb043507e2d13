package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"mgr/agent/objects"
	"mgr/resource"
)

// decodeManifests reads what a file or a URL holds: a pod, or a list of pods.
func decodeManifests(b []byte) ([]*v1.Pod, error) {
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(b, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	switch o := o.(type) {
	case *v1.Pod:
		return []*v1.Pod{o}, nil
	case *v1.PodList:
		pods := make([]*v1.Pod, 0, len(o.Items))
		for i := range o.Items {
			pods = append(pods, &o.Items[i])
		}
		return pods, nil
	case *v1.List:
		return decodeItems(o)
	}
	return nil, fmt.Errorf("it holds a %T, not a Pod", o)
}

func decodeItems(list *v1.List) (pods []*v1.Pod, err error) {
	for i, item := range list.Items {
		more, err := decodeManifests(item.Raw)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		pods = append(pods, more...)
	}
	return pods, nil
}

// staticPod makes a pod of a manifest: named after the node, with the defaults and under the rules of every other pod. Its UID
// is the hash of what is wanted and of where that stands, so a changed manifest is another pod.
func (a *Agent) staticPod(pod *v1.Pod, source, place string) (*v1.Pod, error) {
	if pod.Name == "" {
		return nil, errors.New("a pod needs a name")
	}
	text, err := runtime.Encode(scheme.Codecs.LegacyCodec(v1.SchemeGroupVersion), pod)
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	sum := sha256.Sum256(append([]byte(a.cfg.NodeName+"\x00"+place+"\x00"), text...))
	hash := hex.EncodeToString(sum[:16])
	pod.Name += "-" + strings.ToLower(a.cfg.NodeName)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Status = v1.PodStatus{Phase: v1.PodPending}
	pod.UID, pod.Generation, pod.Spec.NodeName = types.UID(hash), 1, a.cfg.NodeName
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	delete(pod.Annotations, mirrorAnnotation)
	pod.Annotations[hashAnnotation], pod.Annotations[sourceAnnotation] = hash, source
	pod.Annotations[seenAnnotation] = time.Now().Format(time.RFC3339Nano)
	if source == sourceFile {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	}
	pods := resource.Lookup(v1.SchemeGroupVersion.WithResource("pods"))
	pods.Default(pod)
	if errs := pods.Validate(context.Background(), pod, nil); len(errs) > 0 {
		return nil, fmt.Errorf("invalid pod: %w", errs.ToAggregate())
	}
	return pod, standsAlone(pod)
}

// standsAlone refuses what only the API could give: a static pod must run while no master answers.
func standsAlone(pod *v1.Pod) error {
	refuse := func(what string) error { return fmt.Errorf("static pods may not reference %s", what) }
	switch {
	case pod.Spec.ServiceAccountName != "":
		return refuse("serviceaccounts")
	case len(pod.Spec.ResourceClaims) > 0:
		return refuse("resourceclaims")
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return refuse("persistentvolumeclaims")
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil || s.ClusterTrustBundle != nil || s.PodCertificate != nil {
				return refuse("tokens, certificates and trust bundles")
			}
		}
	}
	for _, r := range objects.Of(pod) {
		if r.Kind == objects.Secret {
			return refuse("secrets")
		}
		return refuse("configmaps")
	}
	return nil
}
