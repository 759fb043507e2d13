package rules

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"mgr/netproxy/services"
)

const (
	servicesChain    = Prefix + "SERVICES"
	hostPortsChain   = Prefix + "HOSTPORTS"
	nodePortsChain   = Prefix + "NODEPORTS"
	postroutingChain = Prefix + "POSTROUTING"
	markChain        = Prefix + "MARK-MASQ"
	rejectChain      = Prefix + "REJECT"
	forwardChain     = Prefix + "FORWARD"
	firewallChain    = Prefix + "FIREWALL"

	// mark is set on packets whose source has to become the node's on their way out.
	mark = "0x4000/0x4000"
)

// Config says where the rules are for.
type Config struct {
	PodCIDR     netip.Prefix // of the whole cluster
	ServiceCIDR netip.Prefix // what is for none of our services is refused; zero = left alone
	LocalIPs    []netip.Addr // service addresses that the node answers by itself (cluster DNS); they get no rules
}

// HostPort leads a port of the node to a pod.
type HostPort struct {
	Pod      string     // namespace/name, for the comment
	Protocol string     // TCP, UDP, SCTP
	HostIP   netip.Addr // zero = all of the node's
	Port     uint16
	To       netip.AddrPort
}

// Desired is what the node should do.
type Desired struct {
	Ports     []*services.Port
	HostPorts []HostPort
}

// Compile returns the rules for a desired state. The same state gives the same rules, whatever the order of its parts.
func Compile(cfg Config, d Desired) Ruleset { return NewCompiler(cfg).Compile(d) }

// Compiler compiles again and again; what did not change is kept, so the cost is that of the change. Not for concurrent use.
type Compiler struct {
	cfg    Config
	ports  map[*services.Port]*unit
	hosts  map[HostPort]*unit
	groups map[ID]map[*unit]bool // who has entries in a shared chain
	shared map[ID]*Chain         // built from groups
}

// NewCompiler returns a compiler without memory.
func NewCompiler(cfg Config) *Compiler {
	return &Compiler{cfg: cfg, groups: map[ID]map[*unit]bool{}, shared: map[ID]*Chain{}}
}

// unit is what one service port compiles to.
type unit struct {
	chains  []*Chain // of its own
	entries []entry  // in chains that it shares with others
}

// entry is a rule in a shared chain, where rules are ordered by their text, which begins with the address.
type entry struct {
	chain ID
	level int
	rule  string
}

// Levels of chains: a chain refers only to chains of lower levels.
const (
	levelMark     = iota
	levelEndpoint // DNAT
	levelService  // balancing
	levelExternal // outside traffic
	levelFirewall // source ranges
	levelAddress  // by address and port
	levelTop      // entered from built-in chains
	levelForward  // refers to another such
)

// Compile is as the function Compile.
func (c *Compiler) Compile(d Desired) Ruleset {
	dirty := map[ID]bool{}
	c.ports = renew(c, c.ports, d.Ports, c.port, dirty)
	c.hosts = renew(c, c.hosts, d.HostPorts, hostPort, dirty)
	for id := range dirty {
		c.rebuild(id)
	}
	rs := Ruleset{units: make([]*unit, 0, len(c.ports)+len(c.hosts)), shared: maps.Clone(c.shared)}
	for _, u := range c.ports {
		rs.units = append(rs.units, u)
	}
	for _, u := range c.hosts {
		rs.units = append(rs.units, u)
	}
	c.frame(rs.shared)
	return rs
}

// renew compiles what is new, keeps what was there, and marks the shared chains that either touches.
func renew[K comparable](c *Compiler, old map[K]*unit, items []K, compile func(K) *unit, dirty map[ID]bool) map[K]*unit {
	next := make(map[K]*unit, len(items))
	for _, item := range items {
		u := old[item]
		if u == nil {
			u = compile(item)
			for _, e := range u.entries {
				if c.groups[e.chain] == nil {
					c.groups[e.chain] = map[*unit]bool{}
				}
				c.groups[e.chain][u] = true
				dirty[e.chain] = true
			}
		}
		next[item] = u
	}
	for item, u := range old {
		if next[item] != nil {
			continue
		}
		for _, e := range u.entries {
			delete(c.groups[e.chain], u)
			dirty[e.chain] = true
		}
	}
	return next
}

// rebuild makes a shared chain from the entries of all.
func (c *Compiler) rebuild(id ID) {
	if len(c.groups[id]) == 0 {
		delete(c.groups, id)
		delete(c.shared, id)
		return
	}
	ch := &Chain{ID: id}
	for u := range c.groups[id] {
		for _, e := range u.entries {
			if e.chain == id {
				ch.Rules, ch.level = append(ch.Rules, e.rule), e.level
			}
		}
	}
	slices.Sort(ch.Rules)
	ch.Rules = slices.Compact(ch.Rules)
	c.shared[id] = ch
}

// frame adds the chains that are always there to those of services.
func (c *Compiler) frame(shared map[ID]*Chain) {
	put := func(table, name string, level int, rules ...string) {
		shared[ID{table, name}] = &Chain{ID: ID{table, name}, Rules: rules, level: level}
	}
	put(nat, servicesChain, levelTop, c.dispatch(shared)...)
	put(nat, markChain, levelMark, "-j MARK --or-mark "+strings.TrimSuffix(mark, "/0x4000"))
	var leave []string
	if c.cfg.PodCIDR.IsValid() {
		leave = []string{
			"-s " + c.cfg.PodCIDR.String() + " -d 224.0.0.0/4 -j RETURN",
			"-s " + c.cfg.PodCIDR.String() + " ! -d " + c.cfg.PodCIDR.String() + " " + comment("pods leave the cluster as their node") + "-j MASQUERADE --random-fully",
		}
	}
	put(nat, postroutingChain, levelTop, append(leave,
		"-m mark ! --mark "+mark+" -j RETURN",
		"-j MARK --xor-mark "+strings.TrimSuffix(mark, "/0x4000"),
		comment("marked service traffic")+"-j MASQUERADE --random-fully",
	)...)
	forward := []string{
		"-m conntrack --ctstate INVALID -j DROP",
		"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-m conntrack --ctstate NEW " + comment("services without endpoints") + "-j " + rejectChain,
		"-m mark --mark " + mark + " " + comment("marked service traffic") + "-j ACCEPT",
	}
	if c.cfg.PodCIDR.IsValid() {
		// A host that drops forwarded packets by policy must still forward those of pods.
		forward = append(forward,
			"-s "+c.cfg.PodCIDR.String()+" "+comment("from pods")+"-j ACCEPT",
			"-d "+c.cfg.PodCIDR.String()+" "+comment("to pods")+"-j ACCEPT")
	}
	put(filter, forwardChain, levelForward, forward...)
	put(filter, firewallChain, levelTop,
		"! -s 127.0.0.0/8 -d 127.0.0.0/8 "+comment("others must not use route_localnet")+"-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP")
	reject := byAddress(filter, shared)
	if onNode, ok := shared[nodePortRejects]; ok {
		reject = append(reject, onNode.Rules...)
	}
	put(filter, rejectChain, levelTop, append(reject, c.rejectUnknown()...)...)
}

// rejectUnknown refuses what is for a service address and was not led to an endpoint: there is no such service or port.
func (c *Compiler) rejectUnknown() []string {
	if !c.cfg.ServiceCIDR.IsValid() {
		return nil
	}
	var rules []string
	for _, ip := range c.cfg.LocalIPs {
		rules = append(rules, "-d "+ip.String()+"/32 -j RETURN")
	}
	to := "-d " + c.cfg.ServiceCIDR.String() + " "
	return append(rules, to+"-p tcp "+comment("no such service")+"-j "+rejectTCP, to+comment("no such service")+"-j REJECT")
}

// rejectTCP answers with a reset. The ICMP message that REJECT would send is limited to one a second for each client.
const rejectTCP = "REJECT --reject-with tcp-reset"

// nodePortRejects collects the rules that end MGR-REJECT.
var nodePortRejects = ID{filter, rejectChain}

// dispatch leads from MGR-SERVICES to the chains of the /24s, of host ports and of node ports.
func (c *Compiler) dispatch(shared map[ID]*Chain) []string {
	const local = "-m addrtype --dst-type LOCAL "
	rules := byAddress(nat, shared)
	if _, ok := shared[ID{nat, hostPortsChain}]; ok {
		rules = append(rules, local+comment("host ports of pods")+"-j "+hostPortsChain)
	}
	if _, ok := shared[ID{nat, nodePortsChain}]; ok {
		rules = append(rules, local+comment("node ports; must be last")+"-j "+nodePortsChain)
	}
	return rules
}

// byAddress leads to the chains of the /24s of a table.
func byAddress(table string, shared map[ID]*Chain) []string {
	var rules []string
	for id := range shared {
		if net, ok := strings.CutPrefix(id.Name, addressPrefix); ok && id.Table == table {
			rules = append(rules, "-d "+net+"/24 -j "+id.Name)
		}
	}
	slices.Sort(rules)
	return rules
}

const addressPrefix = Prefix + "IP-"

// at makes the entry that says what becomes of packets for an address and port.
func at(table string, addr netip.Addr, p *services.Port, what, target string) entry {
	net := netip.PrefixFrom(addr, 24).Masked().Addr()
	return entry{
		chain: ID{table, addressPrefix + net.String()}, level: levelAddress,
		rule: "-d " + addr.String() + "/32 " + proto(p.Protocol, p.Port) + comment(p.String()+" "+what) + "-j " + target,
	}
}
