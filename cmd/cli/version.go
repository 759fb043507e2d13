package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"

	"mgr/cmd/admin"
	"mgr/fsm"
)

// extendVersion adds to kubectl's version command what it says of mgr itself: the build, and the feature level of the cluster.
func extendVersion(cmd *cobra.Command, c *env) {
	if cmd == nil {
		return
	}
	cmd.Long = `Show the versions of this program, of the server and of Kubernetes' rules that they implement, and the cluster's feature level.

The feature level is what the masters may write to their log. It goes up by itself some time after the last master was upgraded; as long
as it stays, every master can go back to the version before. See docs/upgrade.md.`
	kubectls := cmd.Run
	cmd.Run = func(cmd *cobra.Command, args []string) {
		output, _ := cmd.Flags().GetString("output")
		clientOnly, _ := cmd.Flags().GetBool("client")
		if output == "" {
			fmt.Fprintf(c.Out, "Build: %s, knows feature level %d\n", version.Get().GitCommit, fsm.Newest)
		}
		kubectls(cmd, args) // it ends the process when there is no server
		if output == "" && !clientOnly {
			members, err := fetch[[]admin.Member](cmd.Context(), c, admin.MembersPath)
			if err == nil {
				printLevels(c.Out, members)
			}
		}
	}
}

// printLevels says at which level the cluster is and what keeps it there.
func printLevels(w io.Writer, members []admin.Member) {
	var level, best fsm.Level
	for _, m := range members {
		level, best = max(level, m.Level), max(best, m.Knows)
	}
	var behind []string
	for _, m := range members {
		if !m.Reachable || m.Knows < best {
			behind = append(behind, m.ID)
		}
	}
	switch {
	case level == 0: // masters from before levels
	case level >= best:
		fmt.Fprintf(w, "Feature Level: %d\n", level)
	case len(behind) > 0:
		fmt.Fprintf(w, "Feature Level: %d; %d as soon as every master knows it (not yet: %s)\n", level, best, strings.Join(behind, ", "))
	default:
		fmt.Fprintf(w, "Feature Level: %d; %d soon, as every master knows it\n", level, best)
	}
}
