package resource

import (
	"testing"
)

const plainJob = `{apiVersion: batch/v1, kind: Job, metadata: {name: j, namespace: default, uid: u1}, spec: {template: {metadata: {labels: {app: x}}, spec: {restartPolicy: Never, containers: [{name: main, image: "demo:1"}]}}}}`

const indexedJob4 = `{apiVersion: batch/v1, kind: Job, metadata: {name: j, namespace: default, uid: u1}, spec: {completionMode: Indexed, completions: 4, parallelism: 4, backoffLimitPerIndex: 1, template: {spec: {restartPolicy: Never, containers: [{name: main, image: "demo:1"}]}}}}`

func TestJobUpdates(t *testing.T) {
	const templateFixed = `spec.template: Invalid value: {"metadata":{"labels":{"app":"x","batch.kubernetes.io/controller-uid":"u1","batch.kubernetes.io/job-name":"j","controller-uid":"u1","job-name":"j"}},"spec":{"containers":[{"name":"main","image":"demo:1","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Never","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","nodeSelector":{"disk":"ssd"},"securityContext":{},"schedulerName":"default-scheduler"}}: field is immutable`
	const suspended = `spec: {suspend: true}`
	checkUpdates(t, plainJob, map[string]updateCase{
		"numbers":        {patch: `{spec: {parallelism: 4, backoffLimit: 1, activeDeadlineSeconds: 9, ttlSecondsAfterFinished: 1, suspend: true}}`, grows: true},
		"completions":    {patch: `{spec: {completions: 2}}`, refuse: `spec.completions: Invalid value: 2: field is immutable`},
		"mode":           {patch: `{spec: {completionMode: Indexed}}`, refuse: `spec.completionMode: Invalid value: "Indexed": field is immutable`},
		"manager":        {patch: `{spec: {managedBy: a.b/c}}`, refuse: `spec.managedBy: Invalid value: "a.b/c": field is immutable`},
		"failure policy": {patch: `{spec: {podReplacementPolicy: Failed, podFailurePolicy: {rules: []}}}`, refuse: `spec.podFailurePolicy: Invalid value: {"rules":[]}: field is immutable`},
		"selector": {patch: `{spec: {selector: {matchLabels: {app: x}}}}`,
			refuse: `spec.selector: Invalid value: {"matchLabels":{"app":"x","batch.kubernetes.io/controller-uid":"u1"}}: field is immutable`},
		"placed while it runs": {patch: `{spec: {template: {spec: {nodeSelector: {disk: ssd}}}}}`, refuse: templateFixed},
		"placed while suspended": {was: `{` + suspended + `}`, grows: true,
			patch: `{spec: {template: {metadata: {annotations: {a: b}}, spec: {nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], schedulingGates: [{name: a.b/c}], affinity: {nodeAffinity: {}}}}}}`},
		"other resources while suspended": {was: `{` + suspended + `, status: {startTime: "2026-11-23T02:55:00Z", conditions: [{type: Suspended, status: "True"}]}}`, grows: true,
			patch: `{spec: {template: {spec: {containers: [{name: main, image: "demo:1", resources: {requests: {cpu: 1}}}]}}}}`},
		"placed while its pods end": {was: `{` + suspended + `, status: {active: 1}}`, patch: `{spec: {template: {spec: {nodeSelector: {disk: ssd}}}}}`, refuse: templateFixed},
		"placed before it says so":  {was: `{` + suspended + `, status: {startTime: "2026-11-23T02:55:00Z"}}`, patch: `{spec: {template: {spec: {nodeSelector: {disk: ssd}}}}}`, refuse: templateFixed},
		"other image while suspended": {was: `{` + suspended + `}`, patch: `{spec: {template: {spec: {containers: [{name: main, image: "demo:2"}]}}}}`,
			refuse: `spec.template.spec: Invalid value: {"containers":[{"name":"main","image":"demo:2","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Never","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","securityContext":{},"schedulerName":"default-scheduler"}: field is immutable`},
	})
	checkUpdates(t, indexedJob4, map[string]updateCase{
		"smaller":          {patch: `{spec: {completions: 2, parallelism: 2}}`, grows: true},
		"completions only": {patch: `{spec: {completions: 2}}`, refuse: `spec.completions: Invalid value: 2: can only be modified in tandem with spec.parallelism`},
		"per index":        {patch: `{spec: {backoffLimitPerIndex: 2}}`, refuse: `spec.backoffLimitPerIndex: Invalid value: 2: field is immutable`},
		"has a policy":     {was: `{spec: {successPolicy: {rules: [{succeededIndexes: "0,2-3", succeededCount: 2}]}}}`, patch: `{spec: {suspend: true}}`, grows: true},
		"success":          {patch: `{spec: {successPolicy: {rules: [{succeededCount: 1}]}}}`, refuse: `spec.successPolicy: Invalid value: {"rules":[{"succeededCount":1}]}: field is immutable`},
	})
}

func TestJobStatus(t *testing.T) {
	const (
		began    = `startTime: "2026-11-23T02:55:00Z"`
		ended    = `completionTime: "2026-11-23T02:56:00Z"`
		met      = `{type: SuccessCriteriaMet, status: "True"}`
		complete = `{type: Complete, status: "True"}`
		failed   = `{type: Failed, status: "True"}`
		target   = `{type: FailureTarget, status: "True"}`
	)
	status := func(text string) string { return `{status: {` + text + `}}` }
	checkUpdates(t, plainJob, map[string]updateCase{
		"begins":           {path: "status", patch: status(began + `, active: 2, ready: 1, terminating: 1, uncountedTerminatedPods: {succeeded: [a], failed: [b]}`)},
		"completes":        {was: status(began), path: "status", patch: status(ended + `, succeeded: 1, conditions: [` + met + `, ` + complete + `]`)},
		"fails":            {was: status(began), path: "status", patch: status(`failed: 1, conditions: [` + target + `, ` + failed + `]`)},
		"resumes":          {was: `{spec: {suspend: false}, status: {` + began + `, conditions: [{type: Suspended, status: "True"}]}}`, path: "status", patch: status(`startTime: "2026-11-23T02:59:00Z", conditions: [{type: Suspended, status: "False"}]`)},
		"begins again":     {was: status(began), path: "status", patch: status(`startTime: "2026-11-23T02:59:00Z"`), refuse: `status.startTime: Invalid value: "2026-11-23T02:59:00Z": field is immutable for unsuspended job once set`},
		"negative":         {path: "status", patch: status(`active: -1, terminating: -1`), refuse: `[status.active: Invalid value: -1: must be greater than or equal to 0, status.terminating: Invalid value: -1: must be greater than or equal to 0]`},
		"more ready":       {path: "status", patch: status(`active: 1, ready: 2`), refuse: `status.ready: Invalid value: 2: cannot set more ready pods than active`},
		"pods twice":       {path: "status", patch: status(`uncountedTerminatedPods: {succeeded: [a, ""], failed: [a]}`), refuse: `[status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty, status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"]`},
		"fewer":            {was: status(`failed: 2, succeeded: 2`), path: "status", patch: status(`failed: 1, succeeded: 1`), refuse: `[status.failed: Invalid value: 1: cannot decrease the failed counter, status.succeeded: Invalid value: 1: cannot decrease the succeeded counter]`},
		"not met":          {was: status(began), path: "status", patch: status(ended + `, conditions: [` + complete + `]`), refuse: `status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition`},
		"no target":        {was: status(began), path: "status", patch: status(`conditions: [` + failed + `]`), refuse: `status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition`},
		"no end":           {was: status(began), path: "status", patch: status(`conditions: [` + met + `, ` + complete + `]`), refuse: `status.completionTime: Required value: completionTime is required for Complete jobs`},
		"no beginning":     {path: "status", patch: status(`conditions: [` + target + `, ` + failed + `]`), refuse: `status.startTime: Required value: startTime is required for finished job`},
		"end alone":        {was: status(began), path: "status", patch: status(ended), refuse: `status.completionTime: Invalid value: "2026-11-23T02:56:00Z": cannot set completionTime when there is no Complete=True condition`},
		"end before":       {was: status(began), path: "status", patch: status(`completionTime: "2026-11-23T02:00:00Z", conditions: [` + met + `, ` + complete + `]`), refuse: "status.completionTime: Invalid value: \"2026-11-23T02:00:00Z\": must be equal to or after `startTime`"},
		"other end":        {was: status(began + `, ` + ended + `, conditions: [` + met + `, ` + complete + `]`), path: "status", patch: status(`completionTime: "2026-11-23T02:59:00Z"`), refuse: `status.completionTime: Invalid value: "2026-11-23T02:59:00Z": field is immutable`},
		"still active":     {was: status(began), path: "status", patch: status(ended + `, active: 1, terminating: 1, uncountedTerminatedPods: {failed: [a]}, conditions: [` + met + `, ` + complete + `]`), refuse: `[status.active: Invalid value: 1: active>0 is invalid for finished job, status.uncountedTerminatedPods: Invalid value: {"failed":["a"]}: must be empty for finished job, status.terminating: Invalid value: 1: terminating>0 is invalid for finished job]`},
		"complete, failed": {was: status(began + `, conditions: [` + target + `, ` + failed + `]`), path: "status", patch: status(ended + `, conditions: [` + target + `, ` + failed + `, ` + complete + `]`), refuse: `[status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions, status.conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions, status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition]`},
		"met, failing":     {was: status(began), path: "status", patch: status(`conditions: [` + met + `, ` + target + `]`), refuse: `status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions`},
		"no longer failed": {was: status(began + `, conditions: [` + target + `, ` + failed + `]`), path: "status", patch: status(`conditions: [` + target + `]`), refuse: `status.conditions: Invalid value: cannot disable the terminal Failed=True condition`},
		"no longer met":    {was: status(began + `, conditions: [` + met + `]`), path: "status", patch: status(`conditions: []`), refuse: `status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition`},
		"indexes":          {path: "status", patch: status(`completedIndexes: "0"`), refuse: `status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion mode`},
		"failed indexes":   {path: "status", patch: status(`failedIndexes: ""`), refuse: `status.failedIndexes: Invalid value: "": cannot set non-null failedIndexes when backoffLimitPerIndex is null`},
		"old mistakes":     {was: status(`active: 1, ready: 2, completedIndexes: "0"`), path: "status", patch: status(`terminating: 1`)},
	})
	checkUpdates(t, indexedJob4, map[string]updateCase{
		"indexes":      {path: "status", patch: status(`completedIndexes: "0,2-3", failedIndexes: "1"`)},
		"fewer":        {was: status(`succeeded: 3`), path: "status", patch: status(`succeeded: 2`)},
		"beyond":       {path: "status", patch: status(`completedIndexes: "0-4"`), refuse: `status.completedIndexes: Invalid value: "0-4": error parsing completedIndexes: too large index: "4"`},
		"not readable": {path: "status", patch: status(`failedIndexes: "b"`), refuse: `status.failedIndexes: Invalid value: "b": error parsing failedIndexes: cannot convert string to integer for index: "b"`},
		"both":         {path: "status", patch: status(`completedIndexes: "0-2", failedIndexes: "2-3"`), refuse: `status.failedIndexes: Invalid value: "2-3": failedIndexes and completedIndexes overlap at index: 2`},
	})
}

func TestCronJobUpdates(t *testing.T) {
	const object = `{apiVersion: batch/v1, kind: CronJob, metadata: {name: c, namespace: default}, spec: {schedule: "* * * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: "demo:1"}]}}}}}}`
	checkUpdates(t, object, map[string]updateCase{
		"schedule":         {patch: `{spec: {schedule: "@daily", suspend: true, timeZone: Etc/UTC}}`, grows: true},
		"bad schedule":     {patch: `{spec: {schedule: "* * *"}}`, refuse: `spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]`},
		"zone appears":     {patch: `{spec: {schedule: "CRON_TZ=UTC * * * * *"}}`, refuse: `spec.schedule: Invalid value: "CRON_TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`},
		"zone stays":       {was: `{spec: {schedule: "TZ=UTC * * * * *"}}`, patch: `{spec: {suspend: true}}`, grows: true},
		"two zones":        {was: `{spec: {schedule: "TZ=UTC * * * * *"}}`, patch: `{spec: {timeZone: UTC}}`, refuse: `spec.schedule: Invalid value: "TZ=UTC * * * * *": cannot use both timeZone field and TZ or CRON_TZ in schedule`},
		"stored zone":      {was: `{spec: {timeZone: Gone/Zone}}`, patch: `{spec: {suspend: true}}`, grows: true},
		"status":           {path: "status", patch: `{status: {lastScheduleTime: "2026-11-23T02:55:00Z"}, spec: {suspend: true}}`},
		"template changes": {patch: `{spec: {jobTemplate: {spec: {completions: 3}}}}`, grows: true},
	})
}
