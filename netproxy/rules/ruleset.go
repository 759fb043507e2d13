// Package rules compiles what a node has to serve into iptables chains. It is pure: text from data, no effects, so that
// tests compare text. Package iptables puts the result into the kernel.
//
// A packet for a service takes this way through the nat table (the filter table refuses what has no endpoint):
//
//	PREROUTING, OUTPUT → MGR-SERVICES            one rule for each /24 that has service addresses
//	                   → MGR-IP-10.43.7.0        one rule for each address and port in that /24
//	                   → MGR-SVC-…               balances over all endpoints of a service port
//	                     MGR-SVL-…               balances over those of this node (traffic policy Local)
//	                     MGR-EXT-…               traffic from outside the cluster: masquerade, or stay local
//	                     MGR-FW-…                load balancer source ranges
//	                   → MGR-SEP-…               one endpoint: DNAT
//	MGR-SERVICES, last → MGR-HOSTPORTS, MGR-NODEPORTS   packets for the node's own addresses
//	POSTROUTING        → MGR-POSTROUTING         masquerade what was marked, and pod traffic that leaves the cluster
//
// The split by /24 keeps both costs flat when services are many: a connection passes some hundred rules instead of one
// for each service, and a new service rewrites a chain of at most 254 addresses.
//
// Chains are named by a hash of what they are for, and say it in comments.
package rules

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// ID names a chain.
type ID struct{ Table, Name string }

// Chain is one chain of ours. Chains are immutable; one that did not change keeps its pointer between compilations.
type Chain struct {
	ID
	Rules []string // arguments of iptables -A <name>
	// level is the distance from the end of a packet's way: a chain refers only to chains of lower levels.
	level int
}

// Ruleset is all that should be in the kernel under our names. It is immutable; the zero value has no chains.
type Ruleset struct {
	units  []*unit       // what belongs to one service port or host port
	shared map[ID]*Chain // all other chains
}

// Chains returns all chains.
func (r Ruleset) Chains() map[ID]*Chain { return r.unless(nil) }

// unless returns the chains, without those of the given units.
func (r Ruleset) unless(known map[*unit]bool) map[ID]*Chain {
	all := maps.Clone(r.shared)
	if all == nil {
		all = map[ID]*Chain{}
	}
	for _, u := range r.units {
		if known[u] {
			continue
		}
		for _, c := range u.chains {
			all[c.ID] = c
		}
	}
	return all
}

func (r Ruleset) unitSet() map[*unit]bool {
	set := make(map[*unit]bool, len(r.units))
	for _, u := range r.units {
		set[u] = true
	}
	return set
}

const (
	nat    = "nat"
	filter = "filter"
)

// Prefix begins the names of all chains of ours.
const Prefix = "MGR-"

// Tables are those that we have chains in.
func Tables() []string { return []string{nat, filter} }

// Hook is a jump from a built-in chain into ours.
type Hook struct {
	Table, Chain string // built in
	Rule         string
}

// Hooks are needed for a Ruleset to have an effect; each stands first in its chain.
func Hooks() []Hook {
	const isNew = "-m conntrack --ctstate NEW "
	return []Hook{
		{nat, "PREROUTING", comment("service portals") + "-j " + servicesChain},
		{nat, "OUTPUT", comment("service portals") + "-j " + servicesChain},
		{nat, "POSTROUTING", comment("pod and service masquerading") + "-j " + postroutingChain},
		{filter, "INPUT", isNew + comment("services without endpoints") + "-j " + rejectChain},
		{filter, "OUTPUT", isNew + comment("services without endpoints") + "-j " + rejectChain},
		{filter, "FORWARD", comment("pod and service traffic") + "-j " + forwardChain},
		{filter, "INPUT", comment("only this node speaks to its loopback") + "-j " + firewallChain},
	}
}

// Permanent returns the chains that every ruleset has, and whose rules do not depend on services.
func (r Ruleset) Permanent() []*Chain {
	var out []*Chain
	for _, id := range []ID{{nat, postroutingChain}, {nat, markChain}, {filter, forwardChain}, {filter, firewallChain}} {
		if c := r.shared[id]; c != nil {
			out = append(out, c)
		}
	}
	return out
}

// String prints the ruleset as iptables-restore reads it, in a stable order.
func (r Ruleset) String() string {
	var b strings.Builder
	for _, tx := range Diff(Ruleset{}, r, 0) {
		b.WriteString(tx)
	}
	return b.String()
}

// Diff returns the transactions (input of iptables-restore --noflush) that turn old into next. All is in one transaction,
// unless more than limit chains change (0 = no limit): a kernel's nf_tables needs time in the square of a transaction's
// size, so what is larger is split, in an order in which every step leaves the rules usable: first new endpoints,
// then the chains that lead to them, in the end what is no longer needed.
func Diff(old, next Ruleset, limit int) []string {
	// Most units are in both; their chains need no look.
	was, is := old.unless(next.unitSet()), next.unless(old.unitSet())
	var changed, stale []*Chain
	for id, c := range is {
		if o := was[id]; o != c && (o == nil || !slices.Equal(o.Rules, c.Rules)) {
			changed = append(changed, c)
		}
	}
	for id, c := range was {
		if is[id] == nil {
			stale = append(stale, c)
		}
	}
	slices.SortFunc(changed, func(a, b *Chain) int { return cmp.Or(cmp.Compare(a.level, b.level), byID(a, b)) })
	slices.SortFunc(stale, byID)

	if limit <= 0 || len(changed)+len(stale) <= limit {
		return one(changed, stale)
	}
	var txs []string
	for part := range slices.Chunk(changed, limit) {
		txs = append(txs, one(part, nil)...)
	}
	// A chain cannot go while another refers to it, so all of them are emptied first.
	for part := range slices.Chunk(stale, limit) {
		emptied := make([]*Chain, len(part))
		for i, c := range part {
			emptied[i] = &Chain{ID: c.ID}
		}
		txs = append(txs, one(emptied, nil)...)
	}
	for part := range slices.Chunk(stale, limit) {
		txs = append(txs, one(nil, part)...)
	}
	return txs
}

// Unknown stands for chains that are in the kernel with unknown content: against it, Diff writes every chain of the next
// ruleset and removes those that it lacks.
func Unknown(ids []ID) Ruleset {
	r := Ruleset{shared: make(map[ID]*Chain, len(ids))}
	for _, id := range ids {
		r.shared[id] = &Chain{ID: id, Rules: []string{"unknown"}}
	}
	return r
}

func byID(a, b *Chain) int { return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Name, b.Name)) }

// one writes a transaction: declarations (they empty the chains), rules, removals.
func one(changed, stale []*Chain) []string {
	var b strings.Builder
	for _, table := range Tables() {
		ours := func(c *Chain) bool { return c.Table == table }
		if !slices.ContainsFunc(changed, ours) && !slices.ContainsFunc(stale, ours) {
			continue
		}
		b.WriteString("*" + table + "\n")
		for _, cs := range [][]*Chain{changed, stale} {
			for _, c := range cs {
				if ours(c) {
					b.WriteString(":" + c.Name + " - [0:0]\n")
				}
			}
		}
		for _, c := range changed {
			if !ours(c) {
				continue
			}
			for _, r := range c.Rules {
				b.WriteString("-A " + c.Name + " " + r + "\n")
			}
		}
		for _, c := range stale {
			if ours(c) {
				b.WriteString("-X " + c.Name + "\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
	if b.Len() == 0 {
		return nil
	}
	return []string{b.String()}
}
