//go:build linux

// Package iptables puts compiled rules (package rules) into the kernel with iptables-restore, one transaction for each
// change, and takes stale connection tracking entries out.
//
// It touches only chains whose name begins with rules.Prefix and the jumps into them. It assumes to be their only writer;
// what somebody else removed, Intact notices.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"

	"mgr/netproxy/rules"
)

// ErrNoIptables is returned when the host has no usable iptables.
var ErrNoIptables = errors.New("iptables is not installed; install it (apt install iptables) or run with the user-space proxy mode")

// pieces is the number of chains for one transaction of nf_tables; see rules.Diff.
const pieces = 1000

// Applier holds the kernel's rules to the last applied ruleset. Not for concurrent use.
type Applier struct {
	log     *slog.Logger
	use     variant
	others  []variant
	applied *rules.Ruleset // nil: the kernel's state is not known
}

// New chooses between the two kinds of iptables: legacy where it holds rules of others and nf_tables does not, else what
// the host's iptables command is.
func New(ctx context.Context, log *slog.Logger) (*Applier, error) {
	found := variants(ctx)
	if len(found) == 0 {
		return nil, ErrNoIptables
	}
	use := 0
	for i, v := range found {
		if v.legacy && !found[use].legacy && v.foreignRules(ctx) > 0 && found[use].foreignRules(ctx) == 0 {
			use = i
		}
	}
	a := &Applier{log: log, use: found[use]}
	for i, v := range found {
		if i != use && v.legacy != a.use.legacy {
			a.others = append(a.others, v)
		}
	}
	return a, nil
}

// Variant says which iptables is in use, for logs: "nf_tables" or "legacy".
func (a *Applier) Variant() string {
	if a.use.legacy {
		return "legacy"
	}
	return "nf_tables"
}

// Apply makes next the rules in the kernel. The first call, and the first after an error, takes over what it finds there
// without an interruption for connections that both old and new rules serve.
func (a *Applier) Apply(ctx context.Context, next rules.Ruleset) error {
	old := a.applied
	a.applied = nil // until it is known to have worked
	var err error
	if old == nil {
		err = a.takeOver(ctx, next)
	} else {
		err = a.commit(ctx, *old, next)
	}
	if err == nil {
		a.applied = &next
	}
	return err
}

func (a *Applier) takeOver(ctx context.Context, next rules.Ruleset) error {
	ids, err := a.use.chains(ctx)
	if err != nil {
		return fmt.Errorf("list chains in use: %w", err)
	}
	if err := a.commit(ctx, rules.Unknown(ids), next); err != nil {
		return err
	}
	for _, h := range rules.Hooks() {
		if err := a.use.ensure(ctx, h); err != nil {
			return err
		}
	}
	for _, v := range a.others {
		if err := v.cleanup(ctx); err != nil {
			a.log.Warn("rules of an earlier run are left in the other kind of iptables", "iptables", v.command, "err", err)
		}
	}
	return nil
}

func (a *Applier) commit(ctx context.Context, old, next rules.Ruleset) error {
	limit := pieces
	if a.use.legacy {
		limit = 0 // a legacy table is replaced as a whole each time
	}
	for _, tx := range rules.Diff(old, next, limit) {
		if err := a.use.restore(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// Intact reports whether the rules are still in place, by samples: the jumps from built-in chains and the first rule of
// each table's chains that always have one. After false, the next Apply writes everything again.
func (a *Applier) Intact(ctx context.Context) bool {
	if a.applied == nil {
		return false
	}
	if a.use.restore(ctx, samples(*a.applied)) == nil {
		return true
	}
	a.applied = nil
	return false
}

func samples(rs rules.Ruleset) string {
	var b strings.Builder
	for _, table := range rules.Tables() {
		b.WriteString("*" + table + "\n")
		for _, h := range rules.Hooks() {
			if h.Table == table {
				b.WriteString("-C " + h.Chain + " " + h.Rule + "\n")
			}
		}
		for _, c := range rs.Permanent() {
			for _, r := range c.Rules {
				if c.Table == table {
					b.WriteString("-C " + c.Name + " " + r + "\n")
				}
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// Cleanup removes every chain of ours and the jumps to them, from both kinds of iptables.
func Cleanup(ctx context.Context) error {
	var errs []error
	for _, v := range variants(ctx) {
		errs = append(errs, v.cleanup(ctx))
	}
	return errors.Join(errs...)
}

// variant is one of the host's iptables commands.
type variant struct {
	command string // iptables, iptables-nft, iptables-legacy
	legacy  bool
}

// variants lists the usable ones; the host's default is the first.
func variants(ctx context.Context) []variant {
	var vs []variant
	for _, c := range []string{"iptables", "iptables-nft", "iptables-legacy"} {
		out, err := exec.CommandContext(ctx, c, "--version").Output()
		if err == nil {
			vs = append(vs, variant{command: c, legacy: !strings.Contains(string(out), "nf_tables")})
		}
	}
	return vs
}

// restore commits one transaction.
func (v variant) restore(ctx context.Context, tx string) error {
	cmd := exec.CommandContext(ctx, v.command+"-restore", "--noflush", "-w", "10")
	cmd.Stdin = strings.NewReader(tx)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("commit rules with %s: %w: %s", cmd.Args[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// ensure puts a jump first in its built-in chain, unless it is there.
func (v variant) ensure(ctx context.Context, h rules.Hook) error {
	if v.restore(ctx, "*"+h.Table+"\n-C "+h.Chain+" "+h.Rule+"\nCOMMIT\n") == nil {
		return nil
	}
	return v.restore(ctx, "*"+h.Table+"\n-I "+h.Chain+" 1 "+h.Rule+"\nCOMMIT\n")
}

// chains lists ours.
func (v variant) chains(ctx context.Context) ([]rules.ID, error) {
	if !v.legacy {
		return nftChains()
	}
	dump, err := v.save(ctx)
	var ids []rules.ID
	table := ""
	for line := range strings.Lines(dump) {
		if t, ok := strings.CutPrefix(line, "*"); ok {
			table = strings.TrimSpace(t)
		}
		if c, ok := strings.CutPrefix(line, ":"+rules.Prefix); ok {
			name, _, _ := strings.Cut(c, " ")
			ids = append(ids, rules.ID{Table: table, Name: rules.Prefix + name})
		}
	}
	return ids, err
}

// save dumps all tables. With legacy iptables that would make the tables, so it asks first whether there are any. Avoid it
// with nf_tables: iptables 1.8.9 takes 14 s for 40,000 chains.
func (v variant) save(ctx context.Context) (string, error) {
	if v.legacy {
		if names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err != nil || len(names) == 0 {
			return "", nil
		}
	}
	out, err := exec.CommandContext(ctx, v.command+"-save").Output()
	if err != nil {
		return "", fmt.Errorf("%s-save: %w", v.command, err)
	}
	return string(out), nil
}

// foreignRules counts rules that are not ours.
func (v variant) foreignRules(ctx context.Context) int {
	dump, err := v.save(ctx)
	if err != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(dump) {
		if strings.HasPrefix(line, "-A ") && !strings.Contains(line, rules.Prefix) {
			n++
		}
	}
	return n
}

func (v variant) cleanup(ctx context.Context) error {
	ids, err := v.chains(ctx)
	if err != nil || len(ids) == 0 {
		return err
	}
	var errs []error
	for _, h := range rules.Hooks() {
		remove := "*" + h.Table + "\n-D " + h.Chain + " " + h.Rule + "\nCOMMIT\n"
		for v.restore(ctx, remove) == nil { // until there is none
		}
	}
	for _, tx := range rules.Diff(rules.Unknown(ids), rules.Ruleset{}, pieces) {
		errs = append(errs, v.restore(ctx, tx))
	}
	return errors.Join(errs...)
}
