package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// DefaultDir holds the local cluster that `mgr up` starts.
const DefaultDir = "/var/lib/mgr/local"

// Spec describes a local cluster; it is kept in <Dir>/cluster.json.
type Spec struct {
	Dir     string       `json:"dir"`
	Name    string       `json:"name"`   // prefix of namespaces and links: several clusters can live on one machine
	Subnet  netip.Prefix `json:"subnet"` // a /24; its first address is the machine's own
	Masters int          `json:"masters"`
	Nodes   int          `json:"nodes"`
	// PodCIDR is where the nodes' pod networks, a /24 each, come from; "": the masters' default.
	PodCIDR string `json:"podCIDR,omitempty"`
	// NodeGrace is the silence after which a node counts as lost, Toleration how long pods stay on it; 0: the masters' defaults.
	NodeGrace  time.Duration `json:"nodeGrace,omitempty"`
	Toleration time.Duration `json:"toleration,omitempty"`
	// AgentArgs are more arguments of each node's `mgr agent`.
	AgentArgs []string `json:"agentArgs,omitempty"`
	// ServiceMode of the nodes: "iptables" or "userspace" (Balance "roundrobin" or "random").
	ServiceMode string `json:"serviceMode"`
	Balance     string `json:"balance"`
}

// Role of a host.
type Role string

const (
	Master Role = "master"
	Node   Role = "node"
)

// Host is one simulated machine.
type Host struct {
	Name string     `json:"name"`
	Role Role       `json:"role"`
	Dir  string     `json:"dir"`
	IP   netip.Addr `json:"ip"` // known once the host's namespace exists
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9]{0,11}$`)

// Validate says what is wrong with a spec, in words for the command line.
func (s Spec) Validate() error {
	switch {
	case s.Masters < 1 || s.Masters > 7 || s.Masters%2 == 0:
		return fmt.Errorf("--masters %d: use an odd number from 1 to 7; an even one adds cost but no safety", s.Masters)
	case s.Nodes < 0 || s.Nodes > 64:
		return fmt.Errorf("--nodes %d: use 0 to 64", s.Nodes)
	case !filepath.IsAbs(s.Dir):
		return fmt.Errorf("--dir %q: use an absolute path", s.Dir)
	case !validName.MatchString(s.Name):
		return fmt.Errorf("--name %q: use up to 12 lower-case letters and digits", s.Name)
	case s.NodeGrace < 0 || s.Toleration < 0:
		return fmt.Errorf("--node-grace %s, --default-toleration %s: a time cannot be negative", s.NodeGrace, s.Toleration)
	case s.Subnet.Bits() != 24 || !s.Subnet.Addr().Is4():
		return fmt.Errorf("--subnet %s: use an IPv4 /24", s.Subnet)
	}
	return nil
}

// Hosts lists masters, then nodes, without their addresses.
func (s Spec) Hosts() []Host {
	var hosts []Host
	add := func(role Role, count int) {
		for i := range count {
			name := fmt.Sprintf("%s-%d", role, i+1)
			hosts = append(hosts, Host{Name: name, Role: role, Dir: filepath.Join(s.Dir, name)})
		}
	}
	add(Master, s.Masters)
	add(Node, s.Nodes)
	return hosts
}

// cgroupRoot is the parent of all cgroups of the cluster's pods: simulated hosts share one hierarchy.
func (s Spec) cgroupRoot() string { return "mgr-" + s.Name }

func (s Spec) names() []string {
	var n []string
	for _, h := range s.Hosts() {
		n = append(n, h.Name)
	}
	return n
}

func (s Spec) save() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(specPath(s.Dir), b, 0o600)
}

// Load reads the spec of the cluster in dir; ErrNone when there is none.
func Load(dir string) (Spec, error) {
	b, err := os.ReadFile(specPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return Spec{}, fmt.Errorf("%w in %s", ErrNone, dir)
	}
	if err != nil {
		return Spec{}, err
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return Spec{}, fmt.Errorf("%s is damaged (%w): remove the cluster with `mgr down`", specPath(dir), err)
	}
	return s, nil
}

// ErrNone: there is no local cluster.
var ErrNone = errors.New("there is no local cluster")

func specPath(dir string) string       { return filepath.Join(dir, "cluster.json") }
func socketPath(dir string) string     { return filepath.Join(dir, "control.sock") }
func kubeconfigPath(dir string) string { return filepath.Join(dir, "kubeconfig") }
func tokenPath(dir, role string) string {
	return filepath.Join(dir, "token-"+role)
}
