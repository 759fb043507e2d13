// Package cli is the command line: the real kubectl commands under our own name, beside the commands that run and look
// after a cluster. A command parses flags, calls one function of another package and prints; it decides nothing.
//
// Exit codes: 0 done; 1 it failed, and stderr's last line says what to do; 2 the command line itself is wrong; what exec and
// plug-ins return is passed on.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	utilexec "k8s.io/utils/exec"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	componentcli "k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/kuberc"
	"k8s.io/kubectl/pkg/util/templates"

	"mgr/agent/daemon"
)

// Main runs the command line args (args[0] is the program) and returns the exit code.
func Main(args []string) int {
	if len(args) > 1 && args[1] == daemon.Subcommand {
		if err := daemon.Main(context.Background(), args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "containerd:", err)
			return 1
		}
		return 0
	}
	if err := useOwnFiles(); err != nil {
		fmt.Fprintln(os.Stderr, "mgr:", err)
		return 1
	}
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	root := resident(args, streams)
	if root == nil {
		root = newRoot(args, streams)
	}
	return exitCode(componentcli.RunNoErrOutput(root))
}

// resident returns the command tree for a command that stays: the command alone, since kubectl's tree costs memory as long as
// the process lives and time before it serves. nil for all others, and for a command line that cannot be parsed or asks for
// help: the whole tree has the words for these.
func resident(args []string, streams genericiooptions.IOStreams) *cobra.Command {
	if len(args) < 2 {
		return nil
	}
	for _, build := range []func(*env) *cobra.Command{newServer, newAgent, newSupervisor} {
		c := &env{IOStreams: streams}
		if trial := build(c); trial.Name() != args[1] || trial.ParseFlags(args[2:]) != nil {
			continue
		}
		root := &cobra.Command{Use: "mgr"}
		root.AddCommand(build(c))
		root.SetArgs(args[1:])
		return root
	}
	return nil
}

// useOwnFiles points the embedded kubectl at ~/.mgr instead of ~/.kube, and at $MGRCONFIG before $KUBECONFIG. On a master
// without ~/.mgr/config, root finds the kubeconfig that the server wrote.
func useOwnFiles() error {
	dir := filepath.Dir(ownKubeconfig())
	clientcmd.RecommendedConfigDir = dir
	clientcmd.RecommendedHomeFile = ownKubeconfig()
	if _, err := os.Stat(clientcmd.RecommendedHomeFile); err != nil {
		if f, err := os.Open(serverKubeconfig); err == nil {
			f.Close()
			clientcmd.RecommendedHomeFile = serverKubeconfig
		}
	}
	kuberc.RecommendedConfigDir = dir
	kuberc.RecommendedKubeRCFile = filepath.Join(dir, kuberc.RecommendedKubeRCFileName)
	plugin.ValidPluginFilenamePrefixes = []string{"mgr"}
	if c := os.Getenv("MGRCONFIG"); c != "" {
		if err := os.Setenv(clientcmd.RecommendedConfigPathEnvVar, c); err != nil {
			return err
		}
	}
	if os.Getenv("KUBECACHEDIR") == "" {
		return os.Setenv("KUBECACHEDIR", filepath.Join(dir, "cache"))
	}
	return nil
}

// ownKubeconfig is ~/.mgr/config.
func ownKubeconfig() string {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root"
	}
	return filepath.Join(home, ".mgr", "config")
}

// newRoot is the whole command tree.
func newRoot(args []string, streams genericiooptions.IOStreams) *cobra.Command {
	then := &past{}
	flags := genericclioptions.NewConfigFlags(true).WithDiscoveryBurst(300).WithDiscoveryQPS(50).
		WithWarningPrinter(streams).WithWrapConfigFn(func(c *rest.Config) *rest.Config { return then.wrap(withFailover(c)) })
	c := &env{IOStreams: streams, flags: flags}
	own := ownCommands(c)
	if isOwn(own, flags, args) {
		args = nil // kubectl would look for a plug-in of that name
	}
	root := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     args,
		ConfigFlags:   flags,
		IOStreams:     streams,
	})
	rename(root)
	then.addTo(root)
	root.Use = "mgr"
	root.Short = "mgr is a Kubernetes that needs no etcd"
	root.Long = rootLong
	groupCommands(root, c, own)
	return root
}

// isOwn says whether a command line is for one of our own commands, wherever the flags that all commands have are.
func isOwn(own templates.CommandGroups, flags *genericclioptions.ConfigFlags, args []string) bool {
	trial := &cobra.Command{Use: "mgr"}
	flags.AddFlags(trial.PersistentFlags())
	own.Add(trial)
	if len(args) < 2 {
		return false
	}
	found, _, err := trial.Find(args[1:])
	return err == nil && found != trial
}

const rootLong = `mgr is a Kubernetes that needs no etcd: masters, nodes and this command line in one binary.

  mgr up            start a highly available cluster on this machine and show it
  mgr get pods      every kubectl command works under this name

A real cluster starts with 'mgr server --cluster-init'; see 'mgr server --help'.`

// env is what our own commands share.
type env struct {
	genericiooptions.IOStreams
	flags *genericclioptions.ConfigFlags
}

// usageError marks an error in the command line itself (exit code 2).
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// exitCode prints err, if any, as one message and maps it to the process's exit code.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitStatus()
	}
	code := 1
	cmdutil.BehaviorOnFatal(func(msg string, _ int) {
		if msg != "" {
			fmt.Fprintln(os.Stderr, trimNewline(rewrite(msg)))
		}
	})
	if u := (usageError{}); errors.As(err, &u) {
		code = 2
		err = u.error
	}
	cmdutil.CheckErr(err)
	return code
}

func trimNewline(s string) string {
	for len(s) > 0 && s[len(s)-1] == '\n' {
		s = s[:len(s)-1]
	}
	return s
}
