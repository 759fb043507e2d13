package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ErrNotRoot: namespaces, mounts and rules need root.
var ErrNotRoot = errors.New("this needs root: it makes network namespaces, mounts and iptables rules; run it with sudo")

// tools are the programs of the host that a local cluster needs, with the Debian package of each.
var tools = []struct{ name, pkg string }{
	{"runc", "runc"},
	{"iptables", "iptables"},
	{"iptables-restore", "iptables"},
}

// Preflight says in one line what this machine lacks for a local cluster.
func Preflight() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	var names, pkgs []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.name); err != nil {
			names = append(names, t.name)
			if len(pkgs) == 0 || pkgs[len(pkgs)-1] != t.pkg {
				pkgs = append(pkgs, t.pkg)
			}
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("this machine lacks %s: apt-get install %s", strings.Join(names, ", "), strings.Join(pkgs, " "))
	}
	return nil
}
