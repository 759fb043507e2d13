package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"mgr/cmd/admin"
	"mgr/pki"
)

func newToken(c *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list and delete join tokens",
		Long: `Create, list and delete join tokens. A token names the cluster's certificate authority, so a machine that joins cannot be
misled; it expires, and only its hash is stored. Agent tokens cannot make a master.`,
	}
	cmd.AddCommand(newTokenCreate(c), newTokenList(c), newTokenDelete(c))
	return cmd
}

func newTokenCreate(c *env) *cobra.Command {
	role, ttl := "", 24*time.Hour
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Create a join token and print it",
		Example: "  mgr token create --role agent\n  mgr token create --role server --ttl 1h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			token, err := admin.CreateToken(cmd.Context(), client, pki.Role(role), ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.Out, token)
			return err
		},
	}
	cmd.Flags().StringVar(&role, "role", "agent", "what its bearer may become: agent or server")
	cmd.Flags().DurationVar(&ttl, "ttl", ttl, "how long it can be used")
	return cmd
}

func newTokenList(c *env) *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List join tokens, without their secrets",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			tokens, err := admin.ListTokens(cmd.Context(), client)
			if err != nil {
				return err
			}
			return show(c.Out, *output, tokens, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tROLE\tEXPIRES")
				for _, t := range tokens {
					left := "expired"
					if d := time.Until(t.Expires); d > 0 {
						left = "in " + duration.HumanDuration(d)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\n", t.ID, t.Role, left)
				}
			})
		},
	}
	output = outputFlag(cmd)
	return cmd
}

func newTokenDelete(c *env) *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID...",
		Short:   "Delete join tokens",
		Example: "  mgr token delete k7qz2maw",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := admin.DeleteToken(cmd.Context(), client, id); err != nil {
					return err
				}
				fmt.Fprintf(c.Out, "token %q deleted\n", id)
			}
			return nil
		},
	}
}
