// Command mgr is a Kubernetes that needs no etcd: master, node agent and command line in one binary.
package main

import (
	"os"

	"mgr/cmd/cli"
)

func main() {
	os.Exit(cli.Main(os.Args))
}
