package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"mgr/cmd/admin"
	"mgr/cmd/boot"
	"mgr/cmd/local"
)

// Networks of a cluster that does not choose its own.
const (
	defaultServiceCIDR = "10.43.0.0/16"
	defaultPodCIDR     = "10.42.0.0/16"
)

func newServer(c *env) *cobra.Command {
	cfg := boot.MasterConfig{}
	common := daemonFlags{}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a master: quorum peer, API server, controllers, scheduler",
		Long: `Run a master. The first one of a cluster starts with --cluster-init and makes the cluster's certificate authority; the
others join it with a token. Three masters survive the loss of one, five that of two. Once it has joined, a master remembers its
place: the same command line starts it again.`,
		Example: `  mgr server --cluster-init --id master-1 --advertise 192.0.2.11
  mgr token create --role server                       # on master-1
  mgr server --join https://192.0.2.11:6443 --token TOKEN --id master-2 --advertise 192.0.2.12`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return common.run(cmd.Context(), c, func(ctx context.Context, token string, log *slog.Logger) error {
				cfg.Token, cfg.Log = token, log
				return boot.RunMaster(ctx, cfg)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&cfg.ClusterInit, "cluster-init", false, "start a new cluster")
	f.StringSliceVar(&cfg.Join, "join", nil, "address of a master to join, https://host:6443 (repeatable)")
	f.StringVar(&cfg.ID, "id", hostname(), "name of this master in the quorum")
	f.StringVar(&cfg.Advertise, "advertise", "", "address at which the other masters, nodes and users reach this one (default: that of the default route)")
	f.IntVar(&cfg.Port, "port", 6443, "the one port: API, quorum and agents")
	f.StringVar(&cfg.Dir, "data-dir", admin.ServerDir, "where its log, snapshots and certificates are")
	f.StringVar(&cfg.ServiceCIDR, "service-cidr", defaultServiceCIDR, "addresses of services")
	f.StringVar(&cfg.PodCIDR, "pod-cidr", defaultPodCIDR, "addresses of pods; each node gets a /24")
	f.DurationVar(&cfg.NodeGrace, "node-grace", 4*time.Second, "silence after which a node counts as lost")
	f.DurationVar(&cfg.DeadMasterAfter, "dead-master-after", 10*time.Minute, "silence after which a master is removed while three others stay; it joins again by itself; 0: never")
	f.DurationVar(&cfg.PodToleration, "default-toleration", 5*time.Second, "how long pods stay on a lost node unless they say otherwise")
	f.Uint64Var((*uint64)(&cfg.MaxLevel), "max-feature-level", 0, "keep the cluster at this feature level, so that older masters can take part (default: the newest)")
	f.DurationVar(&cfg.RaiseAfter, "raise-feature-level-after", 30*time.Second, "how long after the last master was upgraded going back stays possible")
	f.StringVar(&cfg.Snapshots.Schedule, "snapshot-schedule", "", "save a snapshot every so often: 6h, @daily, or five fields as of cron, in UTC")
	f.StringVar(&cfg.Snapshots.Dir, "snapshot-dir", "/var/lib/mgr/snapshots", "where scheduled snapshots go; copy them to another machine")
	f.IntVar(&cfg.Snapshots.Keep, "snapshot-keep", 5, "how many scheduled snapshots stay")
	f.StringSliceVar(&cfg.Snapshots.Recipients, "snapshot-recipient", nil, "age public key (age1…) that scheduled snapshots are sealed for (repeatable)")
	f.StringVar(&cfg.Snapshots.PassphraseFile, "snapshot-passphrase-file", "", "file with a passphrase that they are sealed with instead")
	common.add(f)
	return cmd
}

func newAgent(c *env) *cobra.Command {
	cfg := boot.NodeConfig{}
	common := daemonFlags{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node: pods, service routing, DNS",
		Long: `Run a node: it joins with a token, runs pods on an embedded containerd and routes services. It keeps a connection to every
master and opens no port of its own. Its pods survive when it stops or is restarted.`,
		Example: `  mgr token create --role agent                        # on a master
  mgr agent --join https://192.0.2.11:6443 --token TOKEN`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return common.run(cmd.Context(), c, func(ctx context.Context, token string, log *slog.Logger) error {
				cfg.Token, cfg.Log = token, log
				return boot.RunNode(ctx, cfg)
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Join, "join", nil, "address of a master, https://host:6443 (repeatable)")
	f.StringVar(&cfg.Name, "node-name", hostname(), "name of the node")
	f.StringVar(&cfg.IP, "node-ip", "", "address of the node (default: that of the default route)")
	f.StringVar(&cfg.Dir, "data-dir", "/var/lib/mgr/agent", "where its pods, images and certificates are")
	f.StringVar(&cfg.ManifestDir, "manifest-dir", "", "directory with manifests of static pods")
	f.StringVar(&cfg.ManifestURL, "manifest-url", "", "URL of manifests of static pods, asked for every 20s")
	f.StringSliceVar(&cfg.ManifestURLHeader, "manifest-url-header", nil, "header sent to it, NAME:VALUE (repeatable)")
	f.StringVar(&cfg.ServiceMode, "service-mode", "iptables", "how services are routed: iptables or userspace")
	f.StringVar(&cfg.Balance, "balance", "random", "how the userspace mode picks a backend: roundrobin or random")
	f.StringVar(&cfg.CgroupRoot, "cgroup-root", "kubepods", "parent of all pods' cgroups")
	f.StringVar(&cfg.Enforce, "enforce-node-allocatable", "pods", "what is held to the node's allocatable resources: pods, or none")
	f.Int64Var(&cfg.PodPidsLimit, "pod-max-pids", 0, "processes and threads that one pod may have (0: as many as the node allows)")
	f.BoolVar(&cfg.SeccompDefault, "seccomp-default", true, "filter the system calls of pods that name no seccomp profile")
	f.StringSliceVar(&cfg.UnsafeSysctls, "allowed-unsafe-sysctls", nil, "sysctls, or prefixes ending in *, that pods may set beside the safe ones (repeatable)")
	f.StringVar(&cfg.DevicePlugins, "device-plugin-dir", "",
		"where device plug-ins register (default: device-plugins in the data directory; most look in /var/lib/kubelet/device-plugins)")
	f.StringToStringVar(&cfg.Handlers, "runtime-handler", nil, "OCI runtime that runtime classes can name, NAME=PATH (repeatable)")
	addNodeFlags(f, &cfg)
	addImageFlags(f, &cfg)
	addShutdownFlags(f, &cfg)
	f.StringVar(&cfg.Containerd, "containerd", "", "socket of a containerd of this host (default: run the embedded one)")
	common.add(f)
	return cmd
}

// daemonFlags are those of server and agent alike.
type daemonFlags struct{ token, tokenFile, level string }

func (d *daemonFlags) add(f *pflag.FlagSet) {
	f.StringVar(&d.token, "token", "", "join token; --token-file keeps it out of the process list")
	f.StringVar(&d.tokenFile, "token-file", "", "file with the join token")
	f.StringVar(&d.level, "log-level", "info", "debug, info, warn or error")
}

// run runs a daemon until SIGTERM or SIGINT. The token is empty where none was given: a machine that has joined needs none.
func (d *daemonFlags) run(ctx context.Context, c *env, daemon func(context.Context, string, *slog.Logger) error) error {
	token, err := readToken(d.token, d.tokenFile)
	if err != nil {
		return err
	}
	log, err := newLogger(c, d.level)
	if err != nil {
		return err
	}
	ctx, cancel := untilSignal(ctx)
	defer cancel()
	return daemon(ctx, token, log)
}

// newSupervisor is what `mgr up` leaves running; nobody calls it by hand.
func newSupervisor(c *env) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: local.SupervisorCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(c, "info")
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(cmd.Context())
			defer cancel()
			return local.Supervise(ctx, dir, log)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", local.DefaultDir, "the cluster's directory")
	return cmd
}

// untilSignal ends at SIGTERM or SIGINT.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
}

func newLogger(c *env, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level %q: use debug, info, warn or error", level)
	}
	h := slog.NewTextHandler(c.ErrOut, &slog.HandlerOptions{Level: l})
	klog.SetSlogLogger(slog.New(quieter{h}))
	return slog.New(h), nil
}

// quieter takes what Kubernetes' libraries say through klog one level down: their news is our debugging, and an error there is one
// that they go on after.
type quieter struct{ slog.Handler }

func (q quieter) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, lower(l))
}

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q quieter) WithAttrs(as []slog.Attr) slog.Handler { return quieter{q.Handler.WithAttrs(as)} }
func (q quieter) WithGroup(name string) slog.Handler    { return quieter{q.Handler.WithGroup(name)} }

func lower(l slog.Level) slog.Level { return l - (slog.LevelInfo - slog.LevelDebug) }

// readToken prefers the flag; an empty answer is fine for a machine that has joined before.
func readToken(token, file string) (string, error) {
	if token != "" || file == "" {
		return token, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ToLower(h)
}
