package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"mgr/test/cluster"
)

// A container exchanges a directory of its volume with a link to one of the node's, as fast as it can, while others are started
// on subPaths through that name, some of which have to be made. None of them ever sees the node, and nothing is made there.
func TestSubPathUnderAttack(t *testing.T) {
	t.Parallel()
	s, outside := shared.Space(t), t.TempDir()
	const victims = 5
	if err := errors.Join(os.Mkdir(filepath.Join(outside, "sub"), 0o755), os.WriteFile(filepath.Join(outside, "sub/who"), []byte("host\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	p := cluster.Busybox("attacked", "exec sleep 3600")
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	p.Spec.InitContainers = []corev1.Container{{
		Name: "attacker", Image: cluster.BusyboxImage, RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
		// What is shown to others is never deleted: that would keep their containers from being made.
		Command: []string{"sh", "-c", `n=0; touch /v/begun; while :; do
			[ -e /v/d/sub/who ] || { mkdir -p /v/d/sub; echo pod > /v/d/sub/who; }
			[ -L /v/link ] || { mv /v/link /v/junk$n; ln -s ` + outside + ` /v/link; n=$((n+1)); }
			mv /v/d /v/aside$n; mv /v/link /v/d; mv /v/d /v/link; mv /v/aside$n /v/d
		done 2>/dev/null`},
		VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}},
		StartupProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/v/begun"}}}, PeriodSeconds: 1, FailureThreshold: 30},
	}}
	for i := range victims {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{
			Name: fmt.Sprintf("victim-%d", i), Image: cluster.BusyboxImage,
			Command: []string{"sh", "-c", "cat /m/who /made/* 2>/dev/null; exit 0"},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "v", MountPath: "/m", SubPath: "d/sub"},
				{Name: "v", MountPath: "/made", SubPath: fmt.Sprintf("d/made-%d", i)},
			},
		})
	}
	s.Run(p)
	for i := range victims {
		// The agent itself may have made the directory that was away.
		if out := s.Logs("attacked", fmt.Sprintf("victim-%d", i)); out != "pod\n" && out != "" {
			t.Errorf("victim %d saw %q", i, out)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("the node's directory holds %v %v", entries, err)
	}
}

// A subPath stays what it is through restarts of its container, is read-only where the mount is, and may be made of the
// container's environment; one that leads out of its volume keeps the container from being made until it does not.
func TestSubPaths(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644), os.Symlink("/etc", filepath.Join(dir, "out"))); err != nil {
		t.Fatal(err)
	}
	volume := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}
	p := cluster.Busybox("p", "echo run >> /own/runs; cat /file; touch /ro/x 2>&1 || echo read-only; sleep 1; [ $(wc -l < /own/runs) -ge 2 ] && exec sleep 3600; exit 1")
	p.Spec.Volumes = []corev1.Volume{volume}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "NAME", Value: "mine"}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "v", MountPath: "/own", SubPathExpr: "$(NAME)/dir"},
		{Name: "v", MountPath: "/file", SubPath: "file", ReadOnly: true},
		{Name: "v", MountPath: "/ro", SubPath: "mine", ReadOnly: true},
	}
	s.Create(p)
	s.Await("p", "was restarted", func(p *corev1.Pod) bool { return cluster.Ready(p) && cluster.StatusOf(p, "main").RestartCount > 0 })
	if text, err := os.ReadFile(filepath.Join(dir, "mine/dir/runs")); err != nil || string(text) != "run\nrun\n" {
		t.Errorf("the runs wrote %q %v", text, err)
	}
	if out := s.Logs("p", "main", "--previous"); out != "texttouch: /ro/x: Read-only file system\nread-only\n" {
		t.Errorf("the first run said %q", out)
	}
	escape := cluster.Busybox("escape", "ls /m; exec sleep 3600")
	escape.Spec.Volumes = []corev1.Volume{volume}
	escape.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/m", SubPath: "out"}}
	s.Create(escape)
	s.Await("escape", "is refused", func(p *corev1.Pod) bool {
		w := cluster.StatusOf(p, "main").State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError" && w.Message != ""
	})
	if err := errors.Join(os.Remove(filepath.Join(dir, "out")), os.Mkdir(filepath.Join(dir, "out"), 0o755), os.WriteFile(filepath.Join(dir, "out/inside"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	s.Await("escape", "runs", cluster.Ready)
	if out := s.Logs("escape", "main"); out != "inside\n" {
		t.Errorf("it saw %q", out)
	}
}
