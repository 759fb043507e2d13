package resource

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestPersistentVolumeUpdates(t *testing.T) {
	const object = `{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce],
  csi: {driver: d, volumeHandle: h}, nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: failure-domain.beta.kubernetes.io/zone, operator: In, values: [a]}]}]}}}}`
	const zone = `{spec: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: KEY, operator: In, values: [a]}]}]}}}}`
	checkUpdates(t, object, map[string]updateCase{
		"claim and size":    {patch: `{spec: {capacity: {storage: 2Gi}, claimRef: {namespace: n, name: c}}}`},
		"secret, once":      {patch: `{spec: {csi: {controllerExpandSecretRef: {namespace: ns, name: s}}}}`},
		"final label":       {patch: strings.Replace(zone, "KEY", "topology.kubernetes.io/zone", 1)},
		"status ignored":    {patch: `{status: {phase: Failed}}`},
		"status":            {path: "status", patch: `{status: {phase: Available}, spec: {capacity: {storage: 5Gi}}}`},
		"class cannot go":   {was: `{spec: {volumeAttributesClassName: gold}}`, patch: `{spec: {volumeAttributesClassName: null}}`, refuse: `spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden`},
		"mode":              {patch: `{spec: {volumeMode: Block}}`, refuse: `volumeMode: Invalid value: "Block": field is immutable`},
		"old label, broken": {was: `{spec: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: ["-"]}]}]}}}}`, patch: `{metadata: {labels: {a: b}}}`},
	})
	old := stored[runtime.Object](t, object)
	for patch, want := range map[string]string{
		strings.Replace(zone, "KEY", "elsewhere", 1): "nodeAffinity: Invalid value",
		`{spec: {csi: {volumeHandle: other}}}`:       "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation",
		`{spec: {csi: null, hostPath: {path: /x}}}`:  "spec.persistentvolumesource: Forbidden",
	} {
		if got := write(t, "", merged(t, old, patch), old); !strings.Contains(got, want) {
			t.Errorf("%s: %s", patch, got)
		}
	}
}

// The time of the phase's last change is the cluster's, unless the writer gives one (KEP-3762).
func TestPhaseTransitionTime(t *testing.T) {
	old := stored[*corev1.PersistentVolume](t, `{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}}`)
	made := old.Status.LastPhaseTransitionTime
	if made == nil {
		t.Fatal("a new volume has no time")
	}
	later := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for patch, want := range map[string]time.Time{
		`{status: {phase: Available}}`:                                                  later,
		`{status: {phase: Available, lastPhaseTransitionTime: null}}`:                   later,
		`{status: {phase: Available, lastPhaseTransitionTime: "2026-06-01T00:00:00Z"}}`: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC),
		`{status: {message: x, lastPhaseTransitionTime: null}}`:                         made.UTC(),
	} {
		obj := merged(t, old, patch).(*corev1.PersistentVolume)
		LookupKind(obj.GroupVersionKind()).Subresources[0].Rules.Prepare(At(t.Context(), later.Add(time.Millisecond)), obj, old)
		if got := obj.Status.LastPhaseTransitionTime; got == nil || !got.UTC().Equal(want) {
			t.Errorf("%s: %v, want %v", patch, got, want)
		}
	}
}

func TestPersistentVolumeClaimUpdates(t *testing.T) {
	const object = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {namespace: default, name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}},
  dataSource: {kind: PersistentVolumeClaim, name: before}}}`
	const bound = `{spec: {volumeName: v}, status: {phase: Bound, capacity: {storage: 2Gi}}}`
	checkUpdates(t, object, map[string]updateCase{
		"volume, once":      {patch: `{spec: {volumeName: v}}`},
		"class from none":   {patch: `{spec: {storageClassName: fast}}`},
		"class from beta":   {was: `{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: fast}}}`, patch: `{metadata: {annotations: null}, spec: {storageClassName: fast}}`},
		"growing":           {was: bound, patch: `{spec: {resources: {requests: {storage: 3Gi}}, volumeAttributesClassName: gold}}`},
		"back to what was":  {was: `{spec: {volumeName: v, resources: {requests: {storage: 9Gi}}}, status: {phase: Bound, capacity: {storage: 2Gi}}}`, patch: `{spec: {resources: {requests: {storage: 3Gi}}}}`},
		"one data source":   {patch: `{spec: {dataSourceRef: null}}`},
		"status ignored":    {patch: `{status: {phase: Lost}}`},
		"status":            {path: "status", patch: `{status: {phase: Bound, allocatedResources: {storage: 3Gi}, allocatedResourceStatuses: {storage: NodeResizePending}}}`},
		"status, resources": {path: "status", patch: `{status: {allocatedResources: {cpu: 1}, allocatedResourceStatuses: {storage: Wrong}}}`, refuse: `[status.allocatedResourceStatuses: Unsupported value: "storage": supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending", status.allocatedResources: Unsupported value: "cpu": supported values: "storage"]`},
		"beta annotation":   {patch: `{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: fast}}}`, refuse: `metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: "fast": field is immutable`},
	})
	for name, c := range map[string]struct{ was, patch, want string }{
		"growing unbound": {`{}`, `{spec: {resources: {requests: {storage: 3Gi}}}}`, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"},
		"other volume":    {bound, `{spec: {volumeName: w}}`, "spec is immutable after creation"},
		"shrinking":       {bound, `{spec: {resources: {requests: {storage: 1Gi}}}}`, "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"},
		"no attributes": {`{spec: {volumeName: v, volumeAttributesClassName: gold}, status: {phase: Bound, currentVolumeAttributesClassName: gold}}`, `{spec: {volumeAttributesClassName: null}}`,
			"spec.volumeAttributesClassName: Forbidden: update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"},
	} {
		old := merged(t, stored[runtime.Object](t, object), c.was)
		if got := write(t, "", merged(t, old, c.patch), old); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestQuotaUpdates(t *testing.T) {
	checkUpdates(t, `{apiVersion: v1, kind: ResourceQuota, metadata: {namespace: default, name: q}, spec: {hard: {pods: 1}, scopes: [BestEffort]}}`, map[string]updateCase{
		"hard":           {patch: `{spec: {hard: {pods: 2}}}`},
		"scopes":         {patch: `{spec: {scopes: [NotBestEffort]}}`, refuse: `spec.scopes: Invalid value: ["NotBestEffort"]: field is immutable`},
		"status ignored": {patch: `{status: {used: {pods: 7}}}`},
		"status":         {path: "status", patch: `{status: {hard: {pods: 2}, used: {pods: 1}}, spec: {hard: {pods: 9}}}`},
		"status, halves": {path: "status", patch: `{status: {used: {pods: 500m}}}`, refuse: `status.used[pods]: Invalid value: "500m": must be an integer`},
	})
	for object, want := range map[string]string{
		`{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {cpu: 2, limits.cpu: 1, requests.storage: 5, limits.storage: 6}}}`: "ResourceQuota cpu (2) should be less than limits.cpu (1)",
		`{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {requests.memory: 2Gi, limits.memory: 2Gi}}}`:                      "",
	} {
		if got := warningsOf(t, decode(t, []byte(object))[0], nil); got != want {
			t.Errorf("%s: %s", object, got)
		}
	}
}

func TestStorageUpdates(t *testing.T) {
	checkUpdates(t, `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: c}, provisioner: d, parameters: {a: b}}`, map[string]updateCase{
		"expansion": {patch: `{allowVolumeExpansion: true, mountOptions: [ro]}`},
		"driver":    {patch: `{provisioner: e}`, refuse: `provisioner: Invalid value: null: field is immutable`},
	})
	checkUpdates(t, `{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, metadata: {name: c}, driverName: d, parameters: {a: b}}`, map[string]updateCase{
		"both": {patch: `{driverName: e, parameters: {a: c}}`, refuse: `[driverName: Forbidden: updates to driverName are forbidden., parameters: Forbidden: updates to parameters are forbidden.]`},
	})
	checkUpdates(t, `{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: a}, spec: {attacher: d, nodeName: n1, source: {persistentVolumeName: v}}}`, map[string]updateCase{
		"status ignored": {patch: `{status: {attached: true}, metadata: {labels: {a: b}}}`},
		"status":         {path: "status", patch: `{status: {attached: true, attachError: {message: x, errorCode: 3}}, metadata: {labels: {a: b}}}`},
		"status, code":   {path: "status", patch: `{status: {detachError: {errorCode: -1}}}`, refuse: `status.detachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive`},
	})
	checkUpdates(t, `{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d}, spec: {tokenRequests: [{audience: a}]}}`, map[string]updateCase{
		"capacity": {patch: `{spec: {storageCapacity: true}}`, grows: true},
		"attach":   {patch: `{spec: {attachRequired: false}}`, refuse: `spec.attachedRequired: Invalid value: false: field is immutable`},
		"modes":    {patch: `{spec: {volumeLifecycleModes: [Ephemeral]}}`, refuse: `spec.volumeLifecycleModes: Invalid value: ["Ephemeral"]: field is immutable`},
	})
	checkUpdates(t, `{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: n1}, spec: {drivers: [{name: d, nodeID: i, allocatable: {count: 1}}]}}`, map[string]updateCase{
		"count and driver": {patch: `{spec: {drivers: [{name: d, nodeID: i, allocatable: {count: 9}}, {name: e, nodeID: j}]}}`},
		"id":               {patch: `{spec: {drivers: [{name: d, nodeID: j}]}}`, refuse: `spec.drivers: Invalid value: {"name":"d","nodeID":"j","topologyKeys":null}: field is immutable`},
		"status, alpha":    {path: "status", patch: `{status: {storageHealth: [{name: d}]}}`},
	})
	checkUpdates(t, `{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {namespace: default, name: c}, storageClassName: fast, capacity: 1Gi}`, map[string]updateCase{
		"capacity": {patch: `{capacity: 2Gi}`},
		"class":    {patch: `{storageClassName: slow}`, refuse: `storageClassName: Invalid value: "slow": field is immutable`},
	})
}

func TestNetworkUpdates(t *testing.T) {
	checkUpdates(t, `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {namespace: default, name: i}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}`, map[string]updateCase{
		"class":            {patch: `{spec: {ingressClassName: c}}`, grows: true},
		"status ignored":   {patch: `{status: {loadBalancer: {ingress: [{ip: 1.1.1.1}]}}}`},
		"status":           {path: "status", patch: `{status: {loadBalancer: {ingress: [{ip: 1.1.1.1}, {hostname: lb}]}}}`},
		"status, address":  {path: "status", patch: `{status: {loadBalancer: {ingress: [{ip: 01.1.1.1}, {hostname: 1.1.1.1}]}}}`, refuse: `[status.loadBalancer.ingress[0].ip: Invalid value: "01.1.1.1": must not have leading 0s, status.loadBalancer.ingress[1].hostname: Invalid value: "1.1.1.1": must be a DNS name, not an IP address]`},
		"status, ratchet":  {was: `{status: {loadBalancer: {ingress: [{ip: 01.1.1.1}]}}}`, path: "status", patch: `{status: {loadBalancer: {ingress: [{ip: 01.1.1.1}, {ip: 1.1.1.2}]}}}`},
		"secret, ratchet":  {was: `{spec: {tls: [{secretName: "Not A Name"}]}}`, patch: `{spec: {ingressClassName: c}}`, grows: true},
		"wildcard ratchet": {was: `{spec: {rules: [{host: "*.a.b", http: {paths: [{path: x, pathType: Exact, backend: {}}]}}]}}`, patch: `{spec: {ingressClassName: c}}`, grows: true},
	})
	checkUpdates(t, `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: c}, spec: {controller: a.b/c}}`, map[string]updateCase{
		"parameters": {patch: `{spec: {parameters: {kind: K, name: n}}}`, grows: true},
		"controller": {patch: `{spec: {controller: a.b/d}}`, refuse: `spec.controller: Invalid value: "a.b/d": field is immutable`},
	})
	checkUpdates(t, `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: default, name: p}, spec: {podSelector: {}}}`, map[string]updateCase{
		"rules":   {patch: `{spec: {ingress: [{from: [{podSelector: {}}]}]}}`, grows: true},
		"ratchet": {was: `{spec: {podSelector: {matchExpressions: [{key: a, operator: In, values: ["not a value!"]}]}, ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}}`, patch: `{spec: {egress: [{to: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}}`, grows: true},
	})
	checkUpdates(t, `{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {name: 10.0.0.1}, spec: {parentRef: {resource: r, name: n}}}`, map[string]updateCase{
		"labels": {patch: `{metadata: {labels: {a: b}}}`},
		"parent": {patch: `{spec: {parentRef: {name: other}}}`, refuse: `spec.parentRef: Invalid value: null: field is immutable`},
	})
	checkUpdates(t, `{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: c}, spec: {cidrs: [10.0.0.0/16]}}`, map[string]updateCase{
		"second family":  {patch: `{spec: {cidrs: [10.0.0.0/16, "fd00::/112"]}}`},
		"other":          {patch: `{spec: {cidrs: [10.1.0.0/16]}}`, refuse: `spec.cidrs[0]: Invalid value: "10.1.0.0/16": field is immutable`},
		"none":           {patch: `{spec: {cidrs: []}}`, refuse: `spec.cidrs: Invalid value: []: field is immutable`},
		"status ignored": {patch: `{status: {conditions: []}}`},
		"status":         {path: "status", patch: `{status: {conditions: [{type: Ready, status: "True", reason: "", message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}]}, metadata: {labels: {a: b}}}`},
	})
}

func TestFlowUpdates(t *testing.T) {
	checkUpdates(t, `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: FlowSchema, metadata: {name: f}, spec: {priorityLevelConfiguration: {name: l}}}`, map[string]updateCase{
		"precedence":    {patch: `{spec: {matchingPrecedence: 5}}`, grows: true},
		"status":        {path: "status", patch: `{status: {conditions: [{type: Dangling, status: "True"}]}, spec: {matchingPrecedence: 5}}`},
		"status, twice": {path: "status", patch: `{status: {conditions: [{type: A}, {type: A}, {}]}}`, refuse: `[status.conditions[1].type: Duplicate value: "A", status.conditions[2].type: Required value]`},
	})
	checkUpdates(t, `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: l}, spec: {type: Limited, limited: {limitResponse: {type: Reject}}}}`, map[string]updateCase{
		"shares": {patch: `{spec: {limited: {nominalConcurrencyShares: 0}}}`, grows: true},
		"status": {path: "status", patch: `{status: {conditions: [{type: A}]}, spec: {type: Exempt}}`},
	})
	checkUpdates(t, `{apiVersion: storagemigration.k8s.io/v1, kind: StorageVersionMigration, metadata: {name: m}, spec: {resource: {resource: pods}}}`, map[string]updateCase{
		"spec":             {patch: `{spec: {resource: {resource: nodes}}}`, refuse: `spec: Invalid value: {"resource":{"group":"","resource":"nodes"}}: field is immutable`},
		"status":           {path: "status", patch: `{status: {resourceVersion: "7"}}`},
		"status, words":    {path: "status", patch: `{status: {resourceVersion: seven}}`, refuse: `status.resourceVersion: Invalid value: "seven": resource version is not well formed: seven`},
		"status, backward": {was: `{status: {resourceVersion: "7"}}`, path: "status", patch: `{status: {resourceVersion: "6"}}`, refuse: `status.resourceVersion: Invalid value: "6": field is immutable`},
	})
}

func TestStorageAndNetworkWarnings(t *testing.T) {
	for object, want := range map[string]string{
		`{apiVersion: v1, kind: PersistentVolume, metadata: {name: v, annotations: {volume.beta.kubernetes.io/mount-options: ro}}, spec: {persistentVolumeReclaimPolicy: Recycle, rbd: {image: i, monitors: [m]}, nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: beta.kubernetes.io/os, operator: Exists}]}]}}}}`: `metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use "mountOptions" attribute instead
spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.
spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead
spec.rbd: deprecated in v1.28, non-functional in v1.31+`,
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: v, annotations: {volume.beta.kubernetes.io/storage-class: a}}, spec: {resources: {requests: {storage: 1500m}}}}`: `metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead
spec.resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer`,
		`{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d}, spec: {tokenRequests: [{audience: a}]}}`:                                 "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes",
		`{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: c}, nodeTopology: {matchLabels: {beta.kubernetes.io/arch: a}}}`:     `nodeTopology.matchLabels.beta.kubernetes.io/arch: deprecated since v1.14; use "kubernetes.io/arch" instead`,
		`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, annotations: {kubernetes.io/ingress.class: a}}}`:                         `annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead`,
		`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {egress: [{to: [{ipBlock: {cidr: "10.0.0.0/8"}}]}]}}`:       "",
		`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {ingress: [{from: [{ipBlock: {cidr: "2001:DB8::/32"}}]}]}}`: `spec.ingress[0].from[0].ipBlock.cidr: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format ("2001:db8::/32")`,
	} {
		if got := warningsOf(t, decode(t, []byte(object))[0], nil); got != want {
			t.Errorf("%s\n got %s\nwant %s", object, got, want)
		}
	}
}
