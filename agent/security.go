package agent

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/machine"
)

// securityContext merges what the pod and the container say; the container's word counts.
func securityContext(pod *v1.Pod, c *v1.Container) *v1.SecurityContext {
	out := &v1.SecurityContext{}
	if c.SecurityContext != nil {
		out = c.SecurityContext.DeepCopy()
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	out.RunAsUser, out.RunAsGroup = cmp.Or(out.RunAsUser, p.RunAsUser), cmp.Or(out.RunAsGroup, p.RunAsGroup)
	out.RunAsNonRoot = cmp.Or(out.RunAsNonRoot, p.RunAsNonRoot)
	out.SeccompProfile = cmp.Or(out.SeccompProfile, p.SeccompProfile)
	return out
}

// security translates the security contexts for the runtime.
func (a *Agent) security(s *ContainerSpec, pod *v1.Pod, c *v1.Container) error {
	sc := securityContext(pod, c)
	s.User, s.Group = sc.RunAsUser, sc.RunAsGroup
	if p := pod.Spec.SecurityContext; p != nil {
		if p.FSGroup != nil {
			s.SupplementalGroups = append(s.SupplementalGroups, *p.FSGroup)
		}
		s.SupplementalGroups = append(s.SupplementalGroups, p.SupplementalGroups...)
		s.OnlyTheseGroups = ptr.Deref(p.SupplementalGroupsPolicy, v1.SupplementalGroupsPolicyMerge) == v1.SupplementalGroupsPolicyStrict
	}
	s.Privileged, s.ReadOnlyRoot = ptr.Deref(sc.Privileged, false), ptr.Deref(sc.ReadOnlyRootFilesystem, false)
	s.NoNewPrivileges = !ptr.Deref(sc.AllowPrivilegeEscalation, true)
	s.UnmaskedProc = ptr.Deref(sc.ProcMount, v1.DefaultProcMount) == v1.UnmaskedProcMount
	if sc.Capabilities != nil {
		for _, name := range sc.Capabilities.Add {
			s.CapAdd = append(s.CapAdd, string(name))
		}
		for _, name := range sc.Capabilities.Drop {
			s.CapDrop = append(s.CapDrop, string(name))
		}
	}
	var err error
	if s.SeccompProfile, err = a.seccompProfile(sc.SeccompProfile); err != nil {
		return err
	}
	s.AppArmorProfile = appArmorName(appArmorProfile(pod, c))
	if s.Privileged {
		s.SeccompProfile, s.AppArmorProfile = profileUnconfined, profileUnconfined
	}
	return nil
}

// Names of profiles in a ContainerSpec; a file's or a loaded profile's follows the last one.
const (
	profileDefault    = "runtime/default"
	profileUnconfined = "unconfined"
	profileLocalhost  = "localhost/"
)

// seccompProfile names the filter of system calls: the runtime's own one unless the pod says otherwise.
func (a *Agent) seccompProfile(p *v1.SeccompProfile) (string, error) {
	switch {
	case p == nil && a.cfg.SeccompUnconfined:
		return profileUnconfined, nil
	case p == nil || p.Type == v1.SeccompProfileTypeRuntimeDefault:
		return profileDefault, nil
	case p.Type != v1.SeccompProfileTypeLocalhost:
		return profileUnconfined, nil
	}
	path := ptr.Deref(p.LocalhostProfile, "")
	switch {
	case path == "":
		return "", fmt.Errorf("a seccomp profile of type Localhost needs localhostProfile, a path below %s", a.cfg.SeccompDir)
	case !filepath.IsLocal(path):
		return "", fmt.Errorf("localhostProfile %q leaves %s: name a file below it", path, a.cfg.SeccompDir)
	}
	return profileLocalhost + filepath.Join(a.cfg.SeccompDir, path), nil
}

// appArmorProfile is what confines a container: its own field, the annotation that was used before there was one, or
// the pod's field.
func appArmorProfile(pod *v1.Pod, c *v1.Container) *v1.AppArmorProfile {
	if sc := c.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
		return sc.AppArmorProfile
	}
	value, ok := pod.Annotations[v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
	name, local := strings.CutPrefix(value, v1.DeprecatedAppArmorBetaProfileNamePrefix)
	switch {
	case !ok:
	case value == v1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}
	case value == v1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}
	case local:
		return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.AppArmorProfile
	}
	return nil
}

// appArmorName is a profile's name in a ContainerSpec; "" leaves the choice to the runtime.
func appArmorName(p *v1.AppArmorProfile) string {
	switch {
	case p == nil:
		return ""
	case p.Type == v1.AppArmorProfileTypeRuntimeDefault:
		return profileDefault
	case p.Type == v1.AppArmorProfileTypeLocalhost:
		return profileLocalhost + ptr.Deref(p.LocalhostProfile, "")
	}
	return profileUnconfined
}

// admitAppArmor refuses a pod that asks for a confinement which this kernel cannot give: it would run without.
func (a *Agent) admitAppArmor(pod *v1.Pod) *verdict {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			p := appArmorProfile(pod, &list[i])
			switch {
			case p == nil || p.Type == v1.AppArmorProfileTypeUnconfined:
			case !a.appArmor:
				return appArmorRefusal("AppArmor is not enabled on the host")
			case p.Type == v1.AppArmorProfileTypeLocalhost && strings.TrimSpace(ptr.Deref(p.LocalhostProfile, "")) == "":
				return appArmorRefusal("container " + list[i].Name + " names no AppArmor profile")
			}
		}
	}
	return nil
}

func appArmorRefusal(why string) *verdict {
	return &verdict{Reason: "AppArmor", Message: "Pod was rejected: Cannot enforce AppArmor: " + why}
}

// appArmorEnabled asks the kernel.
func appArmorEnabled() bool {
	return machine.Machine{}.Line("/sys/module/apparmor/parameters/enabled") == "Y"
}

// checkUser enforces runAsNonRoot.
func (j *startJob) checkUser(ctx context.Context, s *ContainerSpec) error {
	if !ptr.Deref(securityContext(j.pod, j.spec).RunAsNonRoot, false) {
		return nil
	}
	who := fmt.Sprintf("(pod: \"%s_%s(%s)\", container: %s)", j.pod.Name, j.pod.Namespace, j.ref.UID, j.spec.Name)
	if s.User != nil {
		if *s.User == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", who)
		}
		return nil
	}
	image, err := j.w.a.runtime.Image(ctx, j.spec.Image)
	if err != nil {
		return err
	}
	user, _, _ := strings.Cut(image.User, ":")
	uid, err := strconv.ParseInt(user, 10, 64)
	switch {
	case user == "" || err == nil && uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", who)
	case err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user, who)
	}
	return nil
}
