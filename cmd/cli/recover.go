package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"mgr/cmd/admin"
	"mgr/cmd/boot"
)

func newRecover(c *env) *cobra.Command {
	cfg := boot.MasterConfig{}
	var yes, force, dryRun bool
	var output *string
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make the survivor of a lost quorum the first master of a new one",
		Long: `Make the survivor of a lost quorum the first master of a new one: when a majority of the masters is gone for good. Run it on the
survivor, with the master stopped. It says first what is known to be lost, which masters will be dropped and whether they answer.

With several survivors, look at each with --dry-run and recover the one whose log ends at the highest term and, of equal terms, the
highest entry. The others join it as new masters: start them as they are, and they notice that they are of an earlier epoch, put their
data aside and join again.`,
		Example: `  systemctl stop mgr-server
  mgr recover --dry-run --id master-1
  mgr recover --id master-1
  systemctl start mgr-server`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			log, err := newLogger(c, "warn")
			if err != nil {
				return err
			}
			cfg.Log = log
			r, err := boot.ExamineMaster(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer func() {
				if closing := r.Close(); err == nil {
					err = closing
				}
			}()
			if dryRun {
				return show(c.Out, *output, r, func(w io.Writer) { printRecovery(w, r) })
			}
			return c.recover(r, yes, force)
		},
	}
	output = outputFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&cfg.Dir, "data-dir", admin.ServerDir, "data directory of the survivor")
	f.StringVar(&cfg.ID, "id", hostname(), "name of the survivor in the quorum")
	f.StringVar(&cfg.Advertise, "advertise", "", "its new address, if that has changed")
	f.IntVar(&cfg.Port, "port", 6443, "its port, with --advertise")
	f.BoolVar(&dryRun, "dry-run", false, "say where this master is and what would happen, and change nothing")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&force, "force", false, "recover even though another master answers: it will be shut out")
	return cmd
}

func (c *env) recover(r *boot.Recovery, yes, force bool) error {
	if err := show(c.ErrOut, "", nil, func(w io.Writer) { printRecovery(w, r) }); err != nil {
		return err
	}
	if up := r.Answering(); len(up) > 0 && !force {
		return fmt.Errorf("another master answers (%s): start this one too and see whether there is a quorum again (mgr members); "+
			"if there is none, stop all and recover the one that is ahead; --force shuts out those that answer", strings.Join(up, ", "))
	}
	if err := c.confirm(yes, "recover"); err != nil {
		return err
	}
	epoch, err := r.Recover()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, `%s is the only master now (epoch %d). Start it as before. Masters of before that come back put their data aside and join again;
those that are gone for good are replaced by new ones (mgr token create --role server).
`, r.ID, epoch)
	return nil
}

func printRecovery(w io.Writer, r *boot.Recovery) {
	line := func(title, format string, a ...any) { fmt.Fprintf(w, "%s:\t%s\n", title, fmt.Sprintf(format, a...)) }
	line("This master", "%s at %s", r.ID, r.Addr)
	line("Its log", "ends at term %d, entry %d, written %s", r.LastTerm, r.LastIndex, ago(r.LastTime))
	line("Committed", "certainly up to entry %d", r.Committed())
	if unsure := r.LastIndex - r.Committed(); unsure > 0 {
		line("Kept", "the %d entries after it too, which may not have been acknowledged to anyone", unsure)
	}
	line("Heard", "a leader had committed entry %d, noted %s", r.Heard, ago(r.HeardAt))
	if lost := r.Lost(); lost > 0 {
		line("LOST", "at least %d acknowledged log entries, and whatever was written after %s", lost, instant(r.HeardAt))
	} else {
		line("Lost", "nothing is known to be; what was written after %s is unknown here", instant(later(r.HeardAt, r.LastTime)))
	}
	for _, other := range r.Others {
		state := "does not answer"
		if other.Reachable {
			state = "ANSWERS"
		}
		line("Dropped", "%s at %s, which %s", other.ID, other.Addr, state)
	}
	if r.Recovered {
		line("Note", "a recovery was interrupted here; repeat it")
	}
	if r.Distrust != "" {
		line("Note", "its data cannot be trusted: %s", r.Distrust)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format(time.RFC3339)
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return fmt.Sprintf("%s (%s ago)", instant(t), duration.HumanDuration(time.Since(t)))
}
