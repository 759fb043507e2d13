// Command mgr-shim is the process between containerd and a pod's containers: containerd's own runc shim, with a
// small change to its task service (task.go), linked alone because one runs for each pod and the whole mgr
// binary would cost each of them 70 MB and 80 ms. Called as `pause` it is the
// first process of a PID namespace that several containers share.
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
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
