package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"

	"mgr/backup"
	"mgr/cmd/admin"
	"mgr/cmd/boot"
	"mgr/cmd/local"
)

func newSnapshot(c *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the whole cluster into a file, check it, and restore it",
		Long: `Save the whole cluster into a file, check it, and restore it: into the running cluster, or into new machines when the old
ones are gone. The file holds every object, Secrets included, and the keys of the cluster's certificate authority: seal it
(--recipient, --passphrase-file), or keep it as you keep keys.`,
	}
	cmd.AddCommand(newSnapshotSave(c), newSnapshotInspect(c), newSnapshotVerify(c), newSnapshotRestore(c))
	return cmd
}

// opener are the flags that open a sealed file.
type opener struct {
	identities []string
	passphrase string
}

func (o *opener) add(f *pflag.FlagSet) {
	f.StringSliceVarP(&o.identities, "identity", "i", nil, "file with an age identity that opens a sealed file (repeatable)")
	f.StringVar(&o.passphrase, "passphrase-file", "", "file with the passphrase of a sealed file")
}

// read opens path ("-": stdin) and hands its unsealed content to f.
func (o *opener) read(c *env, path string, f func(io.Reader) error) (sealed bool, err error) {
	ids, err := backup.Identities(o.identities, o.passphrase)
	if err != nil {
		return false, err
	}
	in := c.In
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return false, err
		}
		defer file.Close()
		in = file
	}
	plain, sealed, err := backup.Unseal(in, ids)
	if err == nil {
		err = f(plain)
	}
	if err != nil {
		return sealed, fmt.Errorf("%s: %w", path, err)
	}
	return sealed, nil
}

func newSnapshotSave(c *env) *cobra.Command {
	var recipients []string
	var passphrase string
	var stale bool
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Save a snapshot of the running cluster",
		Long: `Save a snapshot of the running cluster: every object as it was after all that had been written before, the keys of the
certificate authority, and what else new machines need. FILE "-" is standard output. It is checked on its way and is there,
whole, or not at all.

Sealed, only who has the identity or the passphrase can read it (https://age-encryption.org); sealing is done here, on your
machine. Make an identity with 'age-keygen -o key.txt', and keep it elsewhere than the snapshots.`,
		Example: `  mgr snapshot save cluster.snapshot
  mgr snapshot save --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudlzdl8svq6zh7 cluster.snapshot.age
  mgr snapshot save - | ssh backup@host 'cat > cluster.snapshot'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seal, err := backup.Recipients(recipients, passphrase)
			if err != nil {
				return usageError{err}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			return c.saveSnapshot(cmd.Context(), client, args[0], seal, stale)
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&recipients, "recipient", "r", nil, "age public key (age1…) that the file is sealed for (repeatable)")
	f.StringVar(&passphrase, "passphrase-file", "", "file with a passphrase to seal the file with")
	f.BoolVar(&stale, "stale", false, "take what the master has that answers, also without a quorum")
	return cmd
}

func (c *env) saveSnapshot(ctx context.Context, client kubernetes.Interface, path string, seal []age.Recipient, stale bool) error {
	began, count := time.Now(), &counter{}
	var h backup.Header
	err := local.NewProgress(c.ErrOut).Step("save a snapshot", func(detail func(string)) error {
		fill := func(w io.Writer) (err error) {
			count.w, count.tell = w, detail
			h, err = admin.SaveSnapshot(ctx, client, count, stale)
			return err
		}
		if path == "-" {
			return backup.WriteTo(c.Out, seal, fill)
		}
		return backup.WriteFile(path, seal, fill)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.ErrOut, "%s: %d objects at revision %d, %s in %s\n", path, h.Count(), h.Revision, size(count.n), time.Since(began).Round(time.Millisecond))
	if len(seal) == 0 {
		fmt.Fprintln(c.ErrOut, "It is not sealed: whoever has it has the cluster's keys and all Secrets (--recipient or --passphrase-file seals it).")
	}
	return nil
}

// counter tells how much was written.
type counter struct {
	w    io.Writer
	n    int64
	tell func(string)
}

func (w *counter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.n += int64(n)
	w.tell(size(w.n))
	return n, err
}

func size(n int64) string {
	switch {
	case n < 1e3:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

func newSnapshotInspect(c *env) *cobra.Command {
	var open opener
	var output *string
	cmd := &cobra.Command{
		Use:     "inspect FILE",
		Short:   "Show what a snapshot holds",
		Long:    "Show what a snapshot holds. Only the beginning of the file is read; 'mgr snapshot verify' reads and checks all of it.",
		Example: "  mgr snapshot inspect cluster.snapshot\n  mgr snapshot inspect -i key.txt cluster.snapshot.age -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var h backup.Header
			sealed, err := open.read(c, args[0], func(r io.Reader) (err error) {
				h, err = backup.Inspect(r)
				return err
			})
			if err != nil {
				return err
			}
			return show(c.Out, *output, h, func(w io.Writer) { printHeader(w, &h, sealed) })
		},
	}
	output = outputFlag(cmd)
	open.add(cmd.Flags())
	return cmd
}

func printHeader(w io.Writer, h *backup.Header, sealed bool) {
	var members []string
	for _, m := range h.Members {
		members = append(members, m.ID+" "+m.Addr)
	}
	kind := "no: it can be read by whoever has it"
	if sealed {
		kind = "yes"
	}
	for _, line := range [][2]string{
		{"Taken", fmt.Sprintf("%s (%s ago) by %s, %s", h.Created.Format(time.RFC3339), duration.HumanDuration(time.Since(h.Created)), h.Master, h.Version)},
		{"Sealed", kind},
		{"Cluster", fmt.Sprintf("%s, CA %.16s…", h.Name, h.Cluster)},
		{"Masters", strings.Join(members, ", ")},
		{"Networks", fmt.Sprintf("services %s, pods %s", h.ServiceCIDR, h.PodCIDR)},
		{"Position", fmt.Sprintf("revision %d, log entry %d of term %d, hash %s", h.Revision, h.Index, h.Term, h.Hash)},
		{"Objects", fmt.Sprintf("%d, %s", h.Count(), size(h.Bytes))},
	} {
		fmt.Fprintf(w, "%s:\t%s\n", line[0], line[1])
	}
	fmt.Fprintln(w) // ends the columns of the table
	for _, resource := range slices.Sorted(maps.Keys(h.Objects)) {
		fmt.Fprintf(w, "  %s\t%d\n", resource, h.Objects[resource])
	}
}

func newSnapshotVerify(c *env) *cobra.Command {
	var open opener
	var output *string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Read a snapshot to its end and check everything",
		Long: `Read a snapshot to its end and check everything: checksums, every object, the hash of the state, claims, the keys, and
whether the header is true. The exit code is 1 if anything is wrong.`,
		Example: "  mgr snapshot verify cluster.snapshot\n  mgr snapshot verify -i key.txt cluster.snapshot.age",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			content, err := c.load(&open, args[0])
			if err != nil {
				return err
			}
			h := &content.Header
			return show(c.Out, *output, h, func(w io.Writer) {
				fmt.Fprintf(w, "%s is whole: %d objects at revision %d, hash %s\n", args[0], h.Count(), h.Revision, h.Hash)
			})
		},
	}
	output = outputFlag(cmd)
	open.add(cmd.Flags())
	return cmd
}

// load reads and checks a whole file.
func (c *env) load(open *opener, path string) (content *backup.Content, err error) {
	err = local.NewProgress(c.ErrOut).Step("read "+path, func(func(string)) error {
		_, err := open.read(c, path, func(r io.Reader) (err error) {
			content, err = backup.Load(r)
			return err
		})
		return err
	})
	return content, err
}

func newSnapshotRestore(c *env) *cobra.Command {
	var open opener
	var yes bool
	cfg := boot.MasterConfig{}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Restore a snapshot, into the running cluster or into a new machine",
		Long: `Restore a snapshot.

Into the running cluster: all objects become what they were, in one step, while masters and nodes go on. What was created since
is gone, what was deleted is back; controllers, scheduler and nodes follow. Masters, keys and networks stay. Watches end (410)
and clients list anew; no object's resourceVersion goes back. If anything fails before the end, nothing has changed.

With --data-dir into a new machine, when the masters are gone: it makes the data directory from which 'mgr server' starts as the
first master of the same cluster (the same CA, so nodes and kubeconfigs go on to work). The others join it as new ones. Masters of
before that still run somewhere are kept out.`,
		Example: `  mgr snapshot restore cluster.snapshot
  mgr snapshot restore cluster.snapshot --data-dir /var/lib/mgr/server --id master-1 --advertise 192.0.2.21
  mgr server --id master-1 --advertise 192.0.2.21                  # then, there`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := c.load(&open, args[0])
			if err != nil {
				return err
			}
			if cfg.Dir != "" {
				return c.restoreOffline(cfg, content)
			}
			return c.restoreOnline(cmd.Context(), content, yes)
		},
	}
	f := cmd.Flags()
	open.add(f)
	f.BoolVar(&yes, "yes", false, "do not ask before the state of the running cluster is replaced")
	f.StringVar(&cfg.Dir, "data-dir", "", "make the data directory of a new master here instead")
	f.StringVar(&cfg.ID, "id", hostname(), "with --data-dir: name of the master")
	f.StringVar(&cfg.Advertise, "advertise", "", "with --data-dir: its address (default: that of the default route)")
	f.IntVar(&cfg.Port, "port", 6443, "with --data-dir: its port")
	return cmd
}

func (c *env) restoreOffline(cfg boot.MasterConfig, content *backup.Content) error {
	log, err := newLogger(c, "warn")
	if err != nil {
		return err
	}
	cfg.Log = log
	if err := boot.RestoreMaster(cfg, content); err != nil {
		return err
	}
	h := &content.Header
	line := fmt.Sprintf("mgr server --id %s --data-dir %s", cfg.ID, cfg.Dir)
	if cfg.Advertise != "" {
		line += " --advertise " + cfg.Advertise
	}
	if cfg.Port != 6443 {
		line += fmt.Sprintf(" --port %d", cfg.Port)
	}
	if h.ServiceCIDR != defaultServiceCIDR {
		line += " --service-cidr " + h.ServiceCIDR
	}
	if h.PodCIDR != defaultPodCIDR {
		line += " --pod-cidr " + h.PodCIDR
	}
	fmt.Fprintf(c.Out, `%d objects of %s are in %s. Start the master:

  %s

then make a token (mgr token create --role server) and join the other masters with it.
`, h.Count(), h.Created.Format(time.RFC3339), cfg.Dir, line)
	return nil
}

func (c *env) restoreOnline(ctx context.Context, content *backup.Content, yes bool) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	cfg.QPS = -1 // the pieces of a large state are many
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	now, err := admin.ClusterHeader(ctx, client)
	if err != nil {
		return err
	}
	h := &content.Header
	if now.Cluster != h.Cluster {
		return fmt.Errorf("the snapshot is of another cluster (%s, this one is %s): restore it into new machines with --data-dir", h.Name, now.Name)
	}
	c.printExchange(&now, h)
	if err := c.confirm(yes, "restore"); err != nil {
		return err
	}
	var revision uint64
	err = local.NewProgress(c.ErrOut).Step("restore", func(detail func(string)) (err error) {
		revision, err = admin.RestoreSnapshot(ctx, client, content, func(sent, all uint64) {
			detail(fmt.Sprintf("%s of %s", size(int64(sent)), size(int64(all))))
		})
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "restored: the cluster is at revision %d\n", revision)
	return nil
}

// printExchange says in numbers what a restore replaces.
func (c *env) printExchange(now, then *backup.Header) {
	fmt.Fprintf(c.ErrOut, "The %d objects of %s at revision %d will be replaced by the %d of %s (%s ago), revision %d.\n",
		now.Count(), now.Name, now.Revision, then.Count(), then.Created.Format(time.RFC3339),
		duration.HumanDuration(time.Since(then.Created)), then.Revision)
	all := maps.Clone(now.Objects)
	maps.Copy(all, then.Objects)
	for _, resource := range slices.Sorted(maps.Keys(all)) {
		if now.Objects[resource] != then.Objects[resource] {
			fmt.Fprintf(c.ErrOut, "  %-40s %7d → %d\n", resource, now.Objects[resource], then.Objects[resource])
		}
	}
	fmt.Fprintf(c.ErrOut, "What was written after the snapshot (%d revisions) is lost. Save it first: mgr snapshot save\n",
		now.Revision-min(now.Revision, then.Revision))
}

// confirm asks for a word on a terminal; elsewhere --yes is needed.
func (c *env) confirm(yes bool, word string) error {
	if yes {
		return nil
	}
	in, ok := c.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("this needs --yes, or a terminal to ask on")
	}
	fmt.Fprintf(c.ErrOut, "Type %q to go on: ", word)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != word {
		return fmt.Errorf("nothing was changed")
	}
	return nil
}
