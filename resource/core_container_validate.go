package resource

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// containers checks the main containers of a pod.
func (v *podSpecValidator) containers(path *field.Path) {
	if len(v.spec.Containers) == 0 {
		v.required(path, "")
		return
	}
	names, hostPorts := seen{}, seen{}
	for i := range v.spec.Containers {
		c, at := &v.spec.Containers[i], path.Index(i)
		v.container(c, at)
		if names.again(c.Name) {
			v.add(field.Duplicate(at.Child("name"), c.Name))
		}
		v.lifeAndProbes(c, at)
		v.containerRestart(c, at)
		v.hostPorts(c, at, hostPorts)
	}
}

// initContainers share their names with the main ones; only sidecars (restartPolicy Always) are probed.
func (v *podSpecValidator) initContainers(path *field.Path) {
	names := seen{}
	for _, c := range v.spec.Containers {
		names.again(c.Name)
	}
	for i := range v.spec.InitContainers {
		c, at := &v.spec.InitContainers[i], path.Index(i)
		v.container(c, at)
		if c.RestartPolicy != nil {
			v.containerRestart(c, at)
		} else if len(c.RestartPolicyRules) > 0 {
			v.required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
		}
		if c.Name != "" && names.again(c.Name) {
			v.add(field.Duplicate(at.Child("name"), c.Name))
		}
		v.hostPorts(c, at, seen{})
		if isSidecar(c) {
			v.lifeAndProbes(c, at)
			continue
		}
		const only = "may not be set for init containers without restartPolicy=Always"
		if c.Lifecycle != nil {
			v.forbidden(at.Child("lifecycle"), only)
		}
		for name, p := range map[string]*corev1.Probe{"livenessProbe": c.LivenessProbe, "readinessProbe": c.ReadinessProbe, "startupProbe": c.StartupProbe} {
			if p != nil {
				v.forbidden(at.Child(name), only)
			}
		}
		for j, p := range c.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer {
				v.invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers")
			}
		}
	}
}

func isSidecar(c *corev1.Container) bool {
	return ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
}

// ephemeralFields are the only ones that a container for debugging may have: it is not part of the pod's contract.
var ephemeralFields = map[string]bool{
	"Name": true, "Image": true, "Command": true, "Args": true, "WorkingDir": true, "EnvFrom": true, "Env": true,
	"VolumeMounts": true, "VolumeDevices": true, "TerminationMessagePath": true, "TerminationMessagePolicy": true,
	"ImagePullPolicy": true, "SecurityContext": true, "Stdin": true, "StdinOnce": true, "TTY": true,
}

func (v *podSpecValidator) ephemeralContainers(path *field.Path) {
	const refused = "cannot be set for an Ephemeral Container"
	names, targets := seen{}, map[string]bool{}
	for _, list := range [][]corev1.Container{v.spec.Containers, v.spec.InitContainers} {
		for _, c := range list {
			names.again(c.Name)
			targets[c.Name] = true
		}
	}
	for i := range v.spec.EphemeralContainers {
		e, at := &v.spec.EphemeralContainers[i], path.Index(i)
		v.container((*corev1.Container)(&e.EphemeralContainerCommon), at)
		v.imageText(e.Image, at)
		if names.again(e.Name) {
			v.add(field.Duplicate(at.Child("name"), e.Name))
		}
		if e.TargetContainerName != "" && !targets[e.TargetContainerName] {
			v.add(field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		common := reflect.ValueOf(e.EphemeralContainerCommon)
		for j := range common.NumField() {
			name := common.Type().Field(j).Name
			if !ephemeralFields[name] && !common.Field(j).IsZero() {
				v.forbidden(at.Child(string(unicode.ToLower(rune(name[0])))+name[1:]), refused)
			}
		}
		for j, m := range e.VolumeMounts {
			if m.SubPath != "" {
				v.forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), refused)
			}
			if m.SubPathExpr != "" {
				v.forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), refused)
			}
		}
	}
}

// imageText is checked in pods and not in templates, where such images have been let through since v1.0.
func (v *podSpecValidator) imageText(image string, at *field.Path) {
	if image != strings.TrimSpace(image) {
		v.invalid(at.Child("image"), image, "must not have leading or trailing whitespace")
	}
}

// container checks what all three sorts of containers have in common.
func (v *podSpecValidator) container(c *corev1.Container, at *field.Path) {
	if v.given(at.Child("name"), c.Name) {
		v.dnsLabel(at.Child("name"), c.Name)
	}
	v.given(at.Child("image"), c.Image)
	oneOf(&v.findings, at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	v.containerPorts(c.Ports, at.Child("ports"))
	v.env(c.Env, at.Child("env"))
	v.envFrom(c.EnvFrom, at.Child("envFrom"))
	v.mounts(c, at.Child("volumeMounts"))
	v.devices(c, at.Child("volumeDevices"))
	oneOf(&v.findings, at.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	v.resources(&c.Resources, at.Child("resources"))
	v.resizePolicy(c.ResizePolicy, at.Child("resizePolicy"))
	v.securityContext(c.SecurityContext, at.Child("securityContext"))
}

// protocols of ports, as messages list them.
var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

func (v *podSpecValidator) containerPorts(ports []corev1.ContainerPort, path *field.Path) {
	names := seen{}
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				v.invalid(at.Child("name"), p.Name, msgs...)
			} else if names.again(p.Name) {
				v.add(field.Duplicate(at.Child("name"), p.Name))
			}
		}
		if p.ContainerPort == 0 {
			v.required(at.Child("containerPort"), "")
		} else {
			v.port(at.Child("containerPort"), p.ContainerPort)
		}
		if p.HostPort != 0 {
			v.port(at.Child("hostPort"), p.HostPort)
		}
		oneOf(&v.findings, at.Child("protocol"), p.Protocol, protocols...)
	}
}

// hostPorts finds two ports of one pod that want the same port of the host.
func (v *podSpecValidator) hostPorts(c *corev1.Container, at *field.Path, taken seen) {
	for i, p := range c.Ports {
		if p.HostPort == 0 {
			continue
		}
		if key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort); taken.again(key) {
			v.add(field.Duplicate(at.Child("ports").Index(i).Child("hostPort"), key))
		}
	}
}

// containerRestart checks the restart policy that a container may have of its own, and its rules (KEP-5307).
func (v *podSpecValidator) containerRestart(c *corev1.Container, at *field.Path) {
	if c.RestartPolicy == nil && len(c.RestartPolicyRules) > 0 {
		v.required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	optionalOneOf(&v.findings, at.Child("restartPolicy"), c.RestartPolicy, corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	const most = 20
	if n := len(c.RestartPolicyRules); n > most {
		v.add(field.TooMany(at.Child("restartPolicyRules"), n, most))
	}
	for i, r := range c.RestartPolicyRules {
		rule := at.Child("restartPolicyRules").Index(i)
		optionalOneOf(&v.findings, rule.Child("action"), &r.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			v.required(rule.Child("exitCodes"), "must be specified")
			continue
		}
		optionalOneOf(&v.findings, rule.Child("exitCodes", "operator"), &r.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > 255 {
			v.add(field.TooMany(rule.Child("exitCodes", "values"), n, 255))
		}
	}
}

func (v *podSpecValidator) lifeAndProbes(c *corev1.Container, at *field.Path) {
	if l := c.Lifecycle; l != nil {
		path := at.Child("lifecycle")
		if l.PostStart != nil {
			v.lifecycleHandler(l.PostStart, path.Child("postStart"))
		}
		if l.PreStop != nil {
			v.lifecycleHandler(l.PreStop, path.Child("preStop"))
		}
		if l.StopSignal != nil && v.spec.OS == nil {
			v.forbidden(path.Child("stopSignal"), "may not be set for containers with empty `spec.os.name`")
		}
	}
	const once = "must be 1"
	if p := c.LivenessProbe; v.probe(p, at.Child("livenessProbe")) && p.SuccessThreshold != 1 {
		v.invalid(at.Child("livenessProbe", "successThreshold"), p.SuccessThreshold, once)
	}
	if p := c.ReadinessProbe; v.probe(p, at.Child("readinessProbe")) && p.TerminationGracePeriodSeconds != nil {
		v.invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
	}
	if p := c.StartupProbe; v.probe(p, at.Child("startupProbe")) && p.SuccessThreshold != 1 {
		v.invalid(at.Child("startupProbe", "successThreshold"), p.SuccessThreshold, once)
	}
}

// probe checks what all probes have, and says whether there is one.
func (v *podSpecValidator) probe(p *corev1.Probe, at *field.Path) bool {
	if p == nil {
		return false
	}
	v.handler(handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, at)
	v.nonNegative(at.Child("initialDelaySeconds"), int64(p.InitialDelaySeconds))
	v.nonNegative(at.Child("timeoutSeconds"), int64(p.TimeoutSeconds))
	v.nonNegative(at.Child("periodSeconds"), int64(p.PeriodSeconds))
	v.nonNegative(at.Child("successThreshold"), int64(p.SuccessThreshold))
	v.nonNegative(at.Child("failureThreshold"), int64(p.FailureThreshold))
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		v.invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0")
	}
	return true
}

func (v *podSpecValidator) lifecycleHandler(h *corev1.LifecycleHandler, at *field.Path) {
	v.handler(handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, at)
}

// handler is one of the ways to ask or tell a container something.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func (v *podSpecValidator) handler(h handler, at *field.Path) {
	count := 0
	first := func(name string, set bool) bool {
		if !set {
			return false
		}
		count++
		if count > 1 {
			v.forbidden(at.Child(name), "may not specify more than 1 handler type")
		}
		return count == 1
	}
	if first("exec", h.exec != nil) && len(h.exec.Command) == 0 {
		v.required(at.Child("exec", "command"), "")
	}
	if first("httpGet", h.http != nil) {
		v.httpGet(h.http, at.Child("httpGet"))
	}
	if first("tcpSocket", h.tcp != nil) {
		v.portOrName(at.Child("tcpSocket", "port"), h.tcp.Port)
	}
	if first("grpc", h.grpc != nil) {
		v.portOrName(at.Child("grpc", "port"), intstr.FromInt32(h.grpc.Port))
	}
	if grace := v.spec.TerminationGracePeriodSeconds; first("sleep", h.sleep != nil) && grace != nil &&
		(h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
		v.invalid(at.Child("sleep"), h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))
	}
	if count == 0 {
		v.required(at, "must specify a handler type")
	}
}

func (v *podSpecValidator) httpGet(h *corev1.HTTPGetAction, at *field.Path) {
	v.given(at.Child("path"), h.Path)
	v.portOrName(at.Child("port"), h.Port)
	optionalOneOf(&v.findings, at.Child("scheme"), &h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, header := range h.HTTPHeaders {
		v.invalid(at.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name)...)
	}
}

func (v *podSpecValidator) resizePolicy(policies []corev1.ContainerResizePolicy, path *field.Path) {
	resources := seen{}
	for i, p := range policies {
		if resources.again(string(p.ResourceName)) {
			v.add(field.Duplicate(path.Index(i), p.ResourceName))
		}
		oneOf(&v.findings, path, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		oneOf(&v.findings, path, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if v.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			v.invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}
