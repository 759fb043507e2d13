package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mgr/cmd/admin"
	"mgr/scheduler"
)

func newWhy(c *env) *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use:   "why pod/NAME",
		Short: "Say why a pod is where it is, or why it waits",
		Long: `Say why a pod is where it is, or why it waits: the verdict, then node by node what speaks against it and what
would help. Answers come from the scheduler at work, not from a guess.`,
		Example: "  mgr why pod/web-6f7c\n  mgr why pod web-6f7c -n shop\n  mgr why pod/web-6f7c -o json",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := podName(args)
			if err != nil {
				return err
			}
			ns, _, err := c.flags.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			why, err := fetch[scheduler.Explanation](cmd.Context(), c, admin.WhyPath+"/"+ns+"/"+name)
			if err != nil {
				return err
			}
			if *output == "" {
				printVerdict(c.Out, why)
			}
			return show(c.Out, *output, why, func(w io.Writer) { printNodes(w, why.Nodes) })
		},
	}
	output = outputFlag(cmd)
	return cmd
}

func printVerdict(w io.Writer, why scheduler.Explanation) {
	fmt.Fprintf(w, "Pod %s: %s\n", why.Pod, why.Verdict)
	for _, h := range why.Help {
		fmt.Fprintf(w, "  - %s\n", h)
	}
	if len(why.Nodes) > 0 {
		fmt.Fprintln(w)
	}
}

func printNodes(w io.Writer, nodes []scheduler.NodeFacts) {
	if len(nodes) == 0 {
		return
	}
	fmt.Fprintln(w, "NODE\tFITS\tBECAUSE\tWOULD HELP")
	for _, n := range nodes {
		fits := "no"
		if n.Fits {
			fits = fmt.Sprintf("yes, score %d", n.Score)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", n.Name, fits, strings.Join(n.Reasons, "; "), strings.Join(n.Help, "; "))
	}
}

// podName accepts pod/NAME, "pod NAME" and NAME.
func podName(args []string) (string, error) {
	if len(args) == 2 {
		args = []string{args[0] + "/" + args[1]}
	}
	kind, name, found := strings.Cut(args[0], "/")
	if !found {
		return kind, nil
	}
	switch strings.ToLower(kind) {
	case "pod", "pods", "po":
		return name, nil
	}
	return "", usagef("mgr why explains pods, not %q: use pod/NAME", kind)
}

func decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the server's answer is not what this version of mgr expects: %w", err)
	}
	return nil
}
