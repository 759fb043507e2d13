package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mgr/cmd/admin"
)

func newImage(c *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Bring images to the nodes without a registry",
		Long:  "Bring images to the nodes without a registry: import an archive on all of them, and see which node has what.",
	}
	cmd.AddCommand(newImageImport(c), newImageList(c))
	return cmd
}

func newImageImport(c *env) *cobra.Command {
	var nodes []string
	cmd := &cobra.Command{
		Use:   "import FILE.tar",
		Short: "Put an OCI or docker archive on all nodes",
		Long: `Put an OCI or docker archive (also gzipped) on all nodes, or on those named. Pods that use it should not ask for
imagePullPolicy Always.`,
		Example: "  docker save shop/web:3 | gzip > web.tar.gz && mgr image import web.tar.gz\n  mgr image import web.tar --node node-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			began := time.Now()
			results, err := admin.ImportImage(cmd.Context(), client, nodes, func() (*os.File, error) { return os.Open(args[0]) })
			for _, r := range results {
				if r.Err != nil {
					fmt.Fprintf(c.ErrOut, "%s: %v\n", r.Node, r.Err)
					continue
				}
				fmt.Fprintf(c.Out, "%s: imported %s\n", r.Node, strings.Join(r.Images, ", "))
			}
			if err == nil {
				fmt.Fprintf(c.Out, "on %d node(s) in %s\n", len(results), time.Since(began).Round(100*time.Millisecond))
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "only these nodes (repeatable)")
	return cmd
}

func newImageList(c *env) *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images on each node",
		Example: "  mgr image list\n  mgr image list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			images, err := admin.ListImages(cmd.Context(), client)
			if err != nil {
				return err
			}
			return show(c.Out, *output, images, func(w io.Writer) {
				fmt.Fprintln(w, "NODE\tIMAGE\tID\tSIZE")
				for _, i := range images {
					id := strings.TrimPrefix(i.ID, "sha256:")
					fmt.Fprintf(w, "%s\t%s\t%.12s\t%.1f MB\n", i.Node, strings.Join(i.Names, ","), id, float64(i.Size)/1e6)
				}
			})
		},
	}
	output = outputFlag(cmd)
	return cmd
}
