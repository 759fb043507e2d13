package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/cmd/containerd/command"

	"mgr/agent/containerd"
)

// Subcommand is the first argument with which Ensure executes the binary again; its main must then call Main.
const Subcommand = "containerd"

// Main runs containerd in this process until it is told to stop. args are those after Subcommand, made by Ensure:
// --config FILE. It leaves its process id beside the configuration, for the next agent to find it.
func Main(ctx context.Context, args []string) error {
	if i := slices.Index(args, "--config"); i >= 0 && i+1 < len(args) {
		l := containerd.NewLayout(filepath.Dir(filepath.Dir(args[i+1])))
		if err := os.WriteFile(l.PidFile(), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			return fmt.Errorf("write containerd's process id: %w", err)
		}
	}
	return command.App().Run(ctx, append([]string{Subcommand}, args...))
}
