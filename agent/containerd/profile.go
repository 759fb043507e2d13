package containerd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Profiles as agent.ContainerSpec names them.
const (
	profileDefault    = "runtime/default"
	profileUnconfined = "unconfined"
	profileLocalhost  = "localhost/"
)

// seccomp sets the profile that filters system calls.
func (b *specBuilder) seccomp() error {
	profile := b.spec.SeccompProfile
	if b.spec.Privileged || profile == profileUnconfined {
		return nil
	}
	if profile == "" || profile == profileDefault {
		b.Linux.Seccomp = seccomp.DefaultProfile(b.Spec)
		b.Linux.Seccomp.Architectures = slices.DeleteFunc(b.Linux.Seccomp.Architectures, superfluousArch)
		return nil
	}
	path, ok := strings.CutPrefix(profile, profileLocalhost)
	if !ok {
		return fmt.Errorf("seccomp profile %q is neither runtime/default, unconfined nor localhost/PATH", profile)
	}
	if err := seccomp.WithProfile(path)(context.Background(), nil, nil, b.Spec); err != nil {
		return fmt.Errorf("failed to load seccomp profile %s: %w", path, err)
	}
	return nil
}

// superfluousArch is the one whose rules cost and protect nothing. runc compiles the whole profile once for each architecture, a
// quarter of the time in which a container starts. Without rules for x32 the filter ends a process that makes a call of its kind,
// which is stricter than the rules; Debian's kernels and most others do not know it at all.
func superfluousArch(a specs.Arch) bool { return a == specs.ArchX32 }

// appArmorKernel is what the kernel and its tools do with AppArmor's profiles.
type appArmorKernel struct {
	enabled  func() bool
	load     func(name string) error // the default profile, under a name
	profiles string                  // the file that lists those that are loaded
}

func systemAppArmor() appArmorKernel {
	return appArmorKernel{
		// Loading a profile takes a tool beside the kernel; the name is ours alone, so once is enough.
		enabled: sync.OnceValue(func() bool {
			_, err := os.Stat("/sbin/apparmor_parser")
			text, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
			return err == nil && strings.HasPrefix(string(text), "Y")
		}),
		load:     apparmor.LoadDefaultProfile,
		profiles: "/sys/kernel/security/apparmor/profiles",
	}
}

const appArmorDefault = Namespace + "-default"

// appArmor confines the container by a profile: the default one unless it is told otherwise. Without AppArmor in the kernel
// there is none; the agent has refused pods that insist.
func (b *specBuilder) appArmor() error {
	kernel, profile := b.r.appArmor, b.spec.AppArmorProfile
	name, local := strings.CutPrefix(profile, profileLocalhost)
	switch {
	case b.spec.Privileged || profile == profileUnconfined:
		return nil
	case !kernel.enabled():
		if profile == "" {
			return nil
		}
		return fmt.Errorf("AppArmor profile %s: this kernel does not have AppArmor, or the machine has no apparmor_parser", profile)
	case !local:
		if err := kernel.load(appArmorDefault); err != nil {
			return fmt.Errorf("load the default AppArmor profile: %w", err)
		}
		b.Process.ApparmorProfile = appArmorDefault
		return nil
	}
	text, err := os.ReadFile(kernel.profiles)
	if err != nil {
		return fmt.Errorf("list AppArmor profiles: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if have, _, _ := strings.Cut(line, " ("); have == name {
			b.Process.ApparmorProfile = name
			return nil
		}
	}
	return fmt.Errorf("apparmor profile not found %s: load it with apparmor_parser on this node", name)
}
