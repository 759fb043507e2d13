// Command mgr-shim is the process between containerd and a pod's containers: containerd's own runc shim with two additions. It
// keeps the last output of containers (task.go), and it can be started ahead of need (warm.go). It is linked alone because one
// runs for each pod, and the whole mgr binary would cost each of them 70 MB and 80 ms. Called as `pause` it is the first process
// of a PID namespace that several containers share.
package main

import (
	"context"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "pause" {
		pause()
		return
	}
	warm := os.Getenv(warmVariable) != ""
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"), func(c *shim.Config) {
		c.NoSetupLogger = warm // the log is a pipe in the bundle of a container that it does not have yet
	})
	if warm {
		removeHome()
	}
}
