package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/logs"
)

const (
	maxTerminationMessage = 4096
	maxTerminationLog     = 2048 // when taken from the log
	terminationLogLines   = 80
)

// hostname is the pod's own name for itself.
func (a *Agent) hostname(pod *v1.Pod) string {
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride
	}
	if pod.Spec.HostNetwork {
		return a.cfg.NodeName
	}
	name := pod.Spec.Hostname
	if name == "" {
		name = strings.TrimRight(pod.Name[:min(len(pod.Name), 63)], "-.")
	}
	if ptr.Deref(pod.Spec.SetHostnameAsFQDN, false) {
		if fqdn := a.fqdn(pod, name); fqdn != "" {
			return fqdn
		}
	}
	return name
}

func (a *Agent) fqdn(pod *v1.Pod, hostname string) string {
	if pod.Spec.Subdomain == "" {
		return ""
	}
	return fmt.Sprintf("%s.%s.%s.svc.%s", hostname, pod.Spec.Subdomain, pod.Namespace, a.cfg.ClusterDomain)
}

// podFiles writes /etc/hosts, /etc/hostname and /etc/resolv.conf of a pod and returns their mounts.
func (a *Agent) podFiles(pod *v1.Pod, ref PodRef, ips []netip.Addr) ([]specs.Mount, error) {
	dir := a.volumes.PodDir(ref.UID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the pod's directory: %w", err)
	}
	resolv, _, err := a.resolvConf(pod)
	if err != nil {
		return nil, err
	}
	var out []specs.Mount
	for _, f := range []struct{ name, target, content string }{
		{"etc-hosts", "/etc/hosts", a.hostsFile(pod, ips)},
		{"hostname", "/etc/hostname", a.hostname(pod) + "\n"},
		{"resolv.conf", "/etc/resolv.conf", resolv},
	} {
		path := filepath.Join(dir, f.name)
		// Rewritten in place: running containers have the file itself mounted, not its name.
		if old, err := os.ReadFile(path); err != nil || string(old) != f.content {
			if err := os.WriteFile(path, []byte(f.content), 0o644); err != nil {
				return nil, fmt.Errorf("writing %s: %w", f.target, err)
			}
		}
		out = append(out, bind(path, f.target, v1.VolumeMount{}))
	}
	return out, nil
}

func (a *Agent) hostsFile(pod *v1.Pod, ips []netip.Addr) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		if host, err := os.ReadFile("/etc/hosts"); err == nil {
			b.Write(host)
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name := pod.Spec.Hostname
		if name == "" {
			name = a.hostname(pod)
		}
		names := name
		if fqdn := a.fqdn(pod, name); fqdn != "" {
			names = fqdn + "\t" + name
		}
		for _, ip := range ips {
			fmt.Fprintf(&b, "%s\t%s\n", ip, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, h := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", h.IP, strings.Join(h.Hostnames, "\t"))
		}
	}
	return b.String()
}

// resolver is the content of a resolv.conf.
type resolver struct{ servers, searches, options []string }

func (r resolver) String() string {
	var b strings.Builder
	if len(r.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.searches, " "))
	}
	for _, s := range r.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.String()
}

func parseResolver(in io.Reader) (resolver, error) {
	var r resolver
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.servers = append(r.servers, fields[1])
		case "search", "domain":
			r.searches = fields[1:]
		case "options":
			r.options = fields[1:]
		}
	}
	return r, lines.Err()
}

// resolvConf is the pod's resolv.conf; notes tell what did not fit.
func (a *Agent) resolvConf(pod *v1.Pod) (text string, notes []string, err error) {
	var host resolver
	f, err := os.Open("/etc/resolv.conf")
	if err == nil {
		host, err = parseResolver(f)
		f.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", nil, fmt.Errorf("reading the node's resolv.conf: %w", err)
	}
	r, notes := a.resolver(pod, host).fitted()
	return r.String(), notes, nil
}

// resolver chooses by dnsPolicy and merges dnsConfig in.
func (a *Agent) resolver(pod *v1.Pod, host resolver) resolver {
	policy := pod.Spec.DNSPolicy
	if policy == "" {
		policy = v1.DNSClusterFirst
	}
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork || policy != v1.DNSNone && !a.cfg.ClusterDNS.IsValid() {
		policy = v1.DNSDefault
	}
	var r resolver
	switch policy {
	case v1.DNSClusterFirst, v1.DNSClusterFirstWithHostNet:
		d := a.cfg.ClusterDomain
		r.servers = []string{a.cfg.ClusterDNS.String()}
		r.searches = unique(append([]string{pod.Namespace + ".svc." + d, "svc." + d, d}, host.searches...))
		r.options = []string{"ndots:5"}
	case v1.DNSDefault:
		r = host
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.servers = unique(append(slices.Clone(r.servers), c.Nameservers...))
		r.searches = unique(append(slices.Clone(r.searches), c.Searches...))
		r.options = mergeOptions(r.options, c.Options)
	}
	return r
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions: the pod's options replace those of the same name.
func mergeOptions(base []string, more []v1.PodDNSConfigOption) []string {
	out := slices.Clone(base)
	for _, o := range more {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		i := slices.IndexFunc(out, func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == o.Name })
		if i >= 0 {
			out[i] = text
		} else {
			out = append(out, text)
		}
	}
	return out
}

func (a *Agent) terminationPath(uid, container string, attempt int) string {
	return filepath.Join(a.volumes.PodDir(uid), "containers", container, "termination-"+strconv.Itoa(attempt))
}

// terminationFile makes the file in which an instance may leave its last words.
func (a *Agent) terminationFile(uid, container string, attempt int) (string, error) {
	path := a.terminationPath(uid, container, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("making the termination message file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
	if err != nil {
		return "", fmt.Errorf("making the termination message file: %w", err)
	}
	defer f.Close()
	// Any user of the container may write, whatever the agent's umask is.
	return path, f.Chmod(0o666)
}

// explain adds an ended instance's last words to its record.
func (w *worker) explain(m *member, c *Container) {
	if c.Error != "" {
		return
	}
	path := w.a.terminationPath(w.uid, c.Name, c.Attempt)
	if f, err := os.Open(path); err == nil {
		data, err := io.ReadAll(io.LimitReader(f, maxTerminationMessage))
		f.Close()
		if err == nil && len(data) > 0 {
			c.Error = strings.ToValidUTF8(string(data), "")
			return
		}
	}
	if m.Spec.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError && c.ExitCode != 0 && c.LogPath != "" {
		c.Error = logs.LastWords(c.LogPath, terminationLogLines, maxTerminationLog)
	}
}
