package resource

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

var now = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

// Of several default classes the youngest counts, of equally old ones the first by name.
func TestMarkedStorageClass(t *testing.T) {
	class := func(name, made, annotation string) runtime.Object {
		return decode(t, fmt.Appendf(nil, `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: %s, creationTimestamp: %q, annotations: {%s: "true"}}}`, name, made, annotation))[0]
	}
	const first, second, is = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "storageclass.kubernetes.io/is-default-class"
	for want, all := range map[string][]runtime.Object{
		"":  {class("a", first, "x")},
		"b": {class("a", first, is), class("b", second, "storageclass.beta.kubernetes.io/is-default-class"), class("c", second, "x"), class("d", first, is)},
		"e": {class("f", first, is), class("e", first, is)},
	} {
		if got := storageClass().Marked(all); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What kubectl get shows of each object. -o wide in full.
func TestCells(t *testing.T) {
	for _, c := range []struct{ object, want string }{
		{`{apiVersion: v1, kind: Namespace, metadata: {name: a, creationTimestamp: "2026-11-23T02:55:00Z"}, status: {phase: Active}}`, "a|Active|5m"},
		{`{apiVersion: v1, kind: Namespace, metadata: {name: a}}`, "a||<unknown>"},
		{`{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {node-role.kubernetes.io/worker: "", kubernetes.io/role: db}}, spec: {unschedulable: true},
  status: {conditions: [{type: Ready, status: "True"}], addresses: [{type: InternalIP, address: 10.0.0.1}], nodeInfo: {kubeletVersion: v1.37.2, kernelVersion: "6.1", architecture: amd64}}}`,
			"n1|Ready,SchedulingDisabled|db,worker|<unknown>|v1.37.2|10.0.0.1|<none>|<unknown>|6.1 (amd64)|<unknown>"},
		{`{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}`,
			"n1|NotReady|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"},
		{`{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, clusterIPs: [10.43.0.9], selector: {b: c, a: b}, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 53, protocol: UDP}]}}`,
			"s|NodePort|10.43.0.9|<none>|80:30080/TCP,53/UDP|<unknown>|a=b,b=c"},
		{`{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: LoadBalancer, externalIPs: [9.9.9.9]}, status: {loadBalancer: {ingress: [{hostname: lb}, {ip: 1.1.1.1}]}}}`,
			"s|LoadBalancer|<none>|1.1.1.1,lb,9.9.9.9|<none>|<unknown>|<none>"},
		{`{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: LoadBalancer}}`, "s|LoadBalancer|<none>|<pending>|<none>|<unknown>|<none>"},
		{`{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: ExternalName, externalName: example.com}}`, "s|ExternalName|<none>|example.com|<none>|<unknown>|<none>"},
		{`{apiVersion: v1, kind: Endpoints, metadata: {name: e}, subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 1.1.1.2}], ports: [{port: 80}, {port: 81}]}]}`,
			"e|1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more...|<unknown>"},
		{`{apiVersion: v1, kind: Endpoints, metadata: {name: e}}`, "e|<none>|<unknown>"},
		{`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, ports: [{port: 80}, {name: x}, {}], endpoints: [{addresses: [1.1.1.1]}]}`,
			"e|IPv4|80,x,*|1.1.1.1|<unknown>"},
		{`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4}`, "e|IPv4|<unset>|<unset>|<unknown>"},
		{`{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}, binaryData: {c: eA==}}`, "c|2|<unknown>"},
		{`{apiVersion: v1, kind: Secret, metadata: {name: s}, type: Opaque, data: {a: eA==}}`, "s|Opaque|1|<unknown>"},
		{`{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa}}`, "sa|<unknown>"},
		{`{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {holderIdentity: me}}`, "l|me|<unknown>"},
		{`{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {spec: {containers: [{name: a, image: x}, {name: b, image: z}]}}}, status: {readyReplicas: 1, updatedReplicas: 2, availableReplicas: 1}}`,
			"d|1/3|2|1|<unknown>|a,b|x,z|app=web"},
		{`{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: r}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {spec: {containers: [{name: a, image: x}]}}}, status: {replicas: 2, readyReplicas: 1}}`,
			"r|3|2|1|<unknown>|a|x|app=web"},
		{`{apiVersion: v1, kind: ReplicationController, metadata: {name: r}, spec: {replicas: 3}, status: {replicas: 2, readyReplicas: 1}}`, "r|3|2|1|<unknown>|||<none>"},
		{`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}, spec: {selector: {matchLabels: {app: web}}, template: {spec: {nodeSelector: {disk: ssd}, containers: [{name: a, image: x}]}}}, status: {desiredNumberScheduled: 5, currentNumberScheduled: 4, numberReady: 3, updatedNumberScheduled: 2, numberAvailable: 1}}`,
			"d|5|4|3|2|1|disk=ssd|<unknown>|a|x|app=web"},
		{`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}}`, "d|0|0|0|0|0|<none>|<unknown>|||<none>"},
		{`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {replicas: 3, template: {spec: {containers: [{name: a, image: x}]}}}, status: {readyReplicas: 1}}`, "s|1/3|<unknown>|a|x"},
		{`{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: r, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: s, controller: true}]}, revision: 4}`, "r|statefulset.apps/s|4|<unknown>"},
		{`{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: r, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: s}]}}`, "r|<none>|0|<unknown>"},
		{`{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {completions: 3, template: {spec: {containers: [{name: a, image: x}]}}, selector: {matchLabels: {app: web}}}, status: {succeeded: 1, startTime: "2026-11-23T02:55:00Z"}}`,
			"j|Running|1/3|5m|<unknown>|a|x|app=web"},
		{`{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {parallelism: 3}, status: {startTime: "2026-11-23T02:00:00Z", completionTime: "2026-11-23T02:00:30Z", conditions: [{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True"}]}}`,
			"j|Complete|0/1 of 3|30s|<unknown>|||<none>"},
		{`{apiVersion: batch/v1, kind: Job, metadata: {name: j}, status: {conditions: [{type: FailureTarget, status: "True"}, {type: Failed, status: "False"}]}}`, "j|FailureTarget|0/1||<unknown>|||<none>"},
		{`{apiVersion: batch/v1, kind: Job, metadata: {name: j}, status: {conditions: [{type: Failed, status: "True"}]}}`, "j|Failed|0/1||<unknown>|||<none>"},
		{`{apiVersion: batch/v1, kind: Job, metadata: {name: j}, status: {conditions: [{type: Suspended, status: "True"}]}}`, "j|Suspended|0/1||<unknown>|||<none>"},
		{`{apiVersion: batch/v1, kind: Job, metadata: {name: j}, status: {conditions: [{type: SuccessCriteriaMet, status: "True"}]}}`, "j|SuccessCriteriaMet|0/1||<unknown>|||<none>"},
		{`{apiVersion: batch/v1, kind: Job, metadata: {name: j, deletionTimestamp: "2026-11-23T02:55:00Z"}}`, "j|Terminating|0/1||<unknown>|||<none>"},
		{`{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}, spec: {schedule: "@daily", timeZone: UTC, suspend: true, jobTemplate: {spec: {template: {spec: {containers: [{name: a, image: x}]}}}}}, status: {active: [{name: j}], lastScheduleTime: "2026-11-23T02:55:00Z"}}`,
			"c|@daily|UTC|True|1|5m|<unknown>|a|x|<none>"},
		{`{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}}`, "c||<none>|<unset>|0|<none>|<unknown>|||<none>"},
		{`{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {maxReplicas: 5, scaleTargetRef: {kind: Deployment, name: web}}}`, "h|Deployment/web|<none>|<unset>|5|0|<unknown>"},
		{`{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {minReplicas: 2, metrics: [{type: Resource, resource: {name: cpu, target: {averageUtilization: 50}}}, {type: ContainerResource, containerResource: {name: memory, target: {averageValue: 1Gi}}}, {type: Wrong}]},
  status: {currentReplicas: 3, currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 20}}}, {type: ContainerResource, containerResource: {name: memory, current: {averageValue: 100Mi}}}]}}`,
			"h|/|cpu: 20%/50%, memory: 100Mi/1Gi + 1 more...|2|0|3|<unknown>"},
		{`{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {metrics: [{type: External, external: {target: {averageValue: 5}}}, {type: Pods, pods: {target: {averageValue: 7}}}]},
  status: {currentMetrics: [{type: External, external: {current: {averageValue: 4}}}, {type: Pods, pods: {current: {averageValue: 6}}}]}}`, "h|/|4/5 (avg), 6/7|<unset>|0|0|<unknown>"},
		{`{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {metrics: [{type: Object, object: {target: {value: 5}}}, {type: Resource, resource: {name: cpu, target: {}}}]}}`, "h|/|<unknown>/5, cpu: <unknown>/<auto>|<unset>|0|0|<unknown>"},
		{`{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {minReplicas: 1, maxReplicas: 2, scaleTargetRef: {kind: Deployment, name: web}, targetCPUUtilizationPercentage: 60}, status: {currentReplicas: 1, currentCPUUtilizationPercentage: 30}}`,
			"h|Deployment/web|cpu: 30%/60%|1|2|1|<unknown>"},
		{`{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {minAvailable: 50%}, status: {disruptionsAllowed: 2}}`, "b|50%|N/A|2|<unknown>"},
		{`{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b}, spec: {maxUnavailable: 1}}`, "b|N/A|1|0|<unknown>"},
		{`{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: p}, value: 5, globalDefault: true, preemptionPolicy: Never}`, "p|5|true|<unknown>|Never"},
		{`{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: r}, handler: runsc}`, "r|runsc|<unknown>"},
		{`{apiVersion: v1, kind: PodTemplate, metadata: {name: t}, template: {metadata: {labels: {b: c, a: b}}, spec: {containers: [{name: a, image: x}]}}}`, "t|a|x|a=b,b=c"},
		{`{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {kind: Pod, name: p, fieldPath: "spec.containers{a}"}, source: {component: agent, host: n1}, type: Normal, reason: Started, message: " hello\n", count: 3,
  firstTimestamp: "2026-11-23T02:50:00Z", lastTimestamp: "2026-11-23T02:59:30Z"}`,
			"30s|Normal|Started|pod/p|spec.containers{a}|agent, n1|hello|10m|3|e"},
		{`{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: e}, regarding: {kind: Node}, reportingController: c, reportingInstance: i, note: n1, eventTime: "2026-11-23T02:50:00.000000Z", series: {count: 7, lastObservedTime: "2026-11-23T02:59:00.000000Z"}}`,
			"60s|||node||c, i|n1|10m|7|e"},
		{`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: b}, roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: u}, {kind: Group, name: g}, {kind: Group, name: h}, {kind: ServiceAccount, namespace: ns, name: s}, {kind: Robot, name: x}]}`,
			"b|Role/r|<unknown>|u|g, h|ns/s"},
		{`{apiVersion: v1, kind: PersistentVolume, metadata: {name: v, annotations: {volume.beta.kubernetes.io/storage-class: old}}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteMany, ReadWriteOnce, ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, storageClassName: new, claimRef: {namespace: ns, name: c}, volumeMode: Block}, status: {phase: Bound, reason: r}}`,
			"v|1Gi|RWO,RWX|Retain|Bound|ns/c|old|<unset>|r|<unknown>|Block"},
		{`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {resources: {requests: {storage: 1Gi}}}, status: {phase: Pending}}`, "c|Pending|||||<unset>|<unknown>|<unset>"},
		{`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, deletionTimestamp: "2026-11-23T02:55:00Z"}, spec: {volumeName: v, storageClassName: fast, volumeAttributesClassName: gold, volumeMode: Filesystem}, status: {phase: Bound, capacity: {storage: 2Gi}, accessModes: [ReadWriteOncePod, ReadOnlyMany]}}`,
			"c|Terminating|v|2Gi|ROX,RWOP|fast|gold|<unknown>|Filesystem"},
		{`{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, status: {hard: {pods: 5, limits.cpu: 2, cpu: 1}, used: {pods: 1}}}`, "q|cpu: 0/1, pods: 1/5|limits.cpu: 0/2|<unknown>"},
		{`{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: s}, provisioner: d, allowVolumeExpansion: true}`, "s|d|Delete|Immediate|true|<unknown>"},
		{`{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, metadata: {name: s}, driverName: d}`, "s|d|<unknown>"},
		{`{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: a}, spec: {attacher: d, nodeName: n1, source: {persistentVolumeName: v}}, status: {attached: true}}`, "a|d|v|n1|true|<unknown>"},
		{`{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d}, spec: {tokenRequests: [{audience: a}, {audience: b}], volumeLifecycleModes: [Persistent, Ephemeral]}}`, "d|true|false|false|a,b|false|Persistent,Ephemeral|<unknown>"},
		{`{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d}}`, "d|true|false|false|<unset>|false|<none>|<unknown>"},
		{`{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: d}, spec: {drivers: [{name: d, nodeID: i}]}}`, "d|1|<unknown>"},
		{`{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: c}, storageClassName: s, capacity: 3Gi}`, "c|s|3Gi"},
		{`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {tls: [{}], rules: [{host: a}, {}, {host: b}, {host: c}, {host: d}]}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1}, {hostname: a.lb}]}}}`, "i|<none>|a,b,c + 2 more...|1.1.1.1,a.lb|80, 443|<unknown>"},
		{`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {ingressClassName: c}}`, "i|c|*||80|<unknown>"},
		{`{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: c, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}, spec: {controller: a/b, parameters: {apiGroup: g, kind: K, name: x}}}`, "c (default)|a/b|K.g/x|<unknown>"},
		{`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {matchLabels: {a: b}}}}`, "p|a=b|<unknown>"},
		{`{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {name: 1.1.1.1}, spec: {parentRef: {group: g, resource: Things, namespace: ns, name: x}}}`, "1.1.1.1|things.g/ns/x"},
		{`{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: c}, spec: {cidrs: [a, b]}}`, "c|a,b|<unknown>"},
		{`{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: FlowSchema, metadata: {name: f}, spec: {matchingPrecedence: 7, priorityLevelConfiguration: {name: l}, distinguisherMethod: {type: ByUser}}, status: {conditions: [{type: Dangling, status: "True"}]}}`, "f|l|7|ByUser|<unknown>|True"},
		{`{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: l}, spec: {type: Limited, limited: {nominalConcurrencyShares: 3, limitResponse: {queuing: {queues: 4, handSize: 5, queueLengthLimit: 6}}}}}`, "l|Limited|3|4|5|6|<unknown>"},
		{`{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: l}, spec: {type: Exempt}}`, "l|Exempt|<none>|<none>|<none>|<none>|<unknown>"},
		{`{apiVersion: storagemigration.k8s.io/v1, kind: StorageVersionMigration, metadata: {name: m}, spec: {resource: {group: apps, resource: deployments}}, status: {conditions: [{type: Running, status: "False"}, {type: Succeeded, status: "True"}]}}`, "m|deployments.apps|Succeeded"},
		{`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: b}, roleRef: {kind: ClusterRole, name: r}}`, "b|ClusterRole/r|<unknown>|||"},
	} {
		obj := decode(t, []byte(c.object))[0]
		k := LookupKind(obj.GetObjectKind().GroupVersionKind())
		if got := join(k.Cells(obj, now)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.object, got, c.want)
		}
	}
}

func join(cells []any) string {
	parts := make([]string, len(cells))
	for i, c := range cells {
		parts[i] = fmt.Sprint(c)
	}
	return strings.Join(parts, "|")
}

// READY, STATUS and RESTARTS of a pod.
func TestPodCells(t *testing.T) {
	const (
		running   = `{state: {running: {}}, ready: true, name: main}`
		crashing  = `{state: {waiting: {reason: CrashLoopBackOff}}, restartCount: 3, lastState: {terminated: {finishedAt: "2026-11-23T02:58:00Z"}}, name: main}`
		completed = `{state: {terminated: {exitCode: 0, reason: Completed}}, name: main}`
		failed    = `{state: {terminated: {exitCode: 2}}, name: main}`
	)
	for _, c := range []struct{ name, spec, status, want string }{
		{"new", ``, `phase: Pending`, "0/1|Pending|0"},
		{"gated", ``, `phase: Pending, conditions: [{type: PodScheduled, reason: SchedulingGated}]`, "0/1|SchedulingGated|0"},
		{"evicted", ``, `phase: Failed, reason: Evicted`, "0/1|Evicted|0"},
		{"creating", ``, `phase: Pending, containerStatuses: [{state: {waiting: {reason: ContainerCreating}}}]`, "0/1|ContainerCreating|0"},
		{"running", ``, `phase: Running, containerStatuses: [` + running + `]`, "1/1|Running|0"},
		{"crashing", ``, `phase: Running, containerStatuses: [` + crashing + `]`, "0/1|CrashLoopBackOff|3 (2m ago)"},
		{"completed", ``, `phase: Succeeded, containerStatuses: [` + completed + `]`, "0/1|Completed|0"},
		{"failed", ``, `phase: Failed, containerStatuses: [` + failed + `]`, "0/1|ExitCode:2|0"},
		{"killed", ``, `phase: Failed, containerStatuses: [{state: {terminated: {exitCode: 137, signal: 9}}}]`, "0/1|Signal:9|0"},
		{"half done", ``, `phase: Running, conditions: [{type: Ready, status: "False"}], containerStatuses: [` + completed + `, ` + running + `]`, "1/1|NotReady|0"},
		{"half done, ready", ``, `phase: Running, conditions: [{type: Ready, status: "True"}], containerStatuses: [` + completed + `, ` + running + `]`, "1/1|Running|0"},
		{"one failed", ``, `phase: Running, containerStatuses: [` + completed + `, {state: {terminated: {exitCode: 1, reason: Error}}}]`, "0/1|Error|0"},
		{"init waits", `initContainers: [{name: a}, {name: b}]`, `phase: Pending, initContainerStatuses: [{name: a, state: {terminated: {exitCode: 0}}}, {name: b, state: {waiting: {reason: PodInitializing}}}]`, "0/1|Init:1/2|0"},
		{"init crashes", `initContainers: [{name: a}]`, `phase: Pending, initContainerStatuses: [{name: a, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}}]`, "0/1|Init:CrashLoopBackOff|2"},
		{"init failed", `initContainers: [{name: a}]`, `phase: Failed, initContainerStatuses: [{name: a, state: {terminated: {exitCode: 4}}}]`, "0/1|Init:ExitCode:4|0"},
		{"init error", `initContainers: [{name: a}]`, `phase: Failed, initContainerStatuses: [{name: a, state: {terminated: {exitCode: 4, reason: Error}}}]`, "0/1|Init:Error|0"},
		{"init restarts are history", `initContainers: [{name: a}]`, `phase: Running, initContainerStatuses: [{name: a, restartCount: 4, state: {terminated: {exitCode: 0}}}], containerStatuses: [` + running + `]`, "1/1|Running|0"},
		{"sidecar", `initContainers: [{name: a, restartPolicy: Always}]`, `phase: Running, initContainerStatuses: [{name: a, restartCount: 4, started: true, ready: true, state: {running: {}}}], containerStatuses: [` + running + `]`, "2/2|Running|4"},
	} {
		text := `{metadata: {name: p}, spec: {containers: [{name: main}], ` + c.spec + `}, status: {` + c.status + `}}`
		var p corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil {
			t.Fatal(c.name, err)
		}
		cells := podCells(&p, now)
		if got := join(cells[1:4]); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestPodCellsWide(t *testing.T) {
	const text = `{metadata: {name: p, deletionTimestamp: "2026-11-23T02:59:00Z"},
spec: {nodeName: n1, readinessGates: [{conditionType: a}, {conditionType: b}], containers: [{name: main}]},
status: {phase: Running, podIPs: [{ip: 10.42.0.3}], conditions: [{type: a, status: "True"}]}}`
	var p corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	if got, want := join(podCells(&p, now)), "p|0/1|Terminating|0|<unknown>|10.42.0.3|n1|<none>|1/2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.Status.Reason = "NodeLost"
	if got := podCells(&p, now)[2]; got != "Unknown" {
		t.Errorf("on a lost node: %v", got)
	}
}

func TestQOSClass(t *testing.T) {
	for _, c := range []struct {
		spec string
		want corev1.PodQOSClass
	}{
		{`{containers: [{name: a}]}`, corev1.PodQOSBestEffort},
		{`{containers: [{name: a, resources: {limits: {example.com/gpu: 1}}}]}`, corev1.PodQOSBestEffort},
		{`{containers: [{name: a, resources: {requests: {cpu: 1}}}]}`, corev1.PodQOSBurstable},
		{`{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1G}, requests: {cpu: 1, memory: 1G}}}]}`, corev1.PodQOSGuaranteed},
		{`{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1G}, requests: {cpu: 1, memory: 1G}}}, {name: b}]}`, corev1.PodQOSBurstable},
		{`{resources: {limits: {cpu: 1, memory: 1G}, requests: {cpu: 1, memory: 1G}}, containers: [{name: a}]}`, corev1.PodQOSGuaranteed},
	} {
		var spec corev1.PodSpec
		if err := yaml.UnmarshalStrict([]byte(c.spec), &spec); err != nil {
			t.Fatal(err)
		}
		if got := qosClass(&spec); got != c.want {
			t.Errorf("%s: %s, want %s", c.spec, got, c.want)
		}
	}
}
