package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"mgr/agent"
)

// Which profile a container has, on a kernel with AppArmor and on one without.
func TestAppArmorProfile(t *testing.T) {
	list := filepath.Join(t.TempDir(), "profiles")
	if err := os.WriteFile(list, []byte("mine (enforce)\nmine-too (complain)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spec          agent.ContainerSpec
		with, without string // the profile, or words of the error after "!"
	}{
		"nothing said": {agent.ContainerSpec{}, "mgr-default", ""},
		"default":      {agent.ContainerSpec{AppArmorProfile: "runtime/default"}, "mgr-default", "!does not have AppArmor"},
		"unconfined":   {agent.ContainerSpec{AppArmorProfile: "unconfined"}, "", ""},
		"loaded":       {agent.ContainerSpec{AppArmorProfile: "localhost/mine"}, "mine", "!does not have AppArmor"},
		"not loaded":   {agent.ContainerSpec{AppArmorProfile: "localhost/min"}, "!apparmor profile not found min", "!does not have AppArmor"},
		"privileged":   {agent.ContainerSpec{Privileged: true, AppArmorProfile: "localhost/mine"}, "", ""},
	} {
		for has, want := range map[bool]string{true: c.with, false: c.without} {
			var loaded []string
			kernel := appArmorKernel{profiles: list, enabled: func() bool { return has }, load: func(name string) error {
				loaded = append(loaded, name)
				return nil
			}}
			b := &specBuilder{Spec: &oci.Spec{Process: &specs.Process{}}, r: &Runtime{appArmor: kernel}, spec: c.spec}
			err := b.appArmor()
			words, fails := strings.CutPrefix(want, "!")
			switch {
			case fails && (err == nil || !strings.Contains(err.Error(), words)):
				t.Errorf("%s, AppArmor %v: %v, want %q", name, has, err, words)
			case !fails && (err != nil || b.Process.ApparmorProfile != want):
				t.Errorf("%s, AppArmor %v: profile %q, %v, want %q", name, has, b.Process.ApparmorProfile, err, want)
			case (want == appArmorDefault) != (len(loaded) == 1):
				t.Errorf("%s, AppArmor %v: loaded %v", name, has, loaded)
			}
		}
	}
}
