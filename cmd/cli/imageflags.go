package cli

import (
	"time"

	"github.com/spf13/pflag"

	"mgr/cmd/boot"
)

// addImageFlags adds what an agent may be told about images and logs, by kubelet's names where kubelet has one.
func addImageFlags(f *pflag.FlagSet, cfg *boot.NodeConfig) {
	i := &cfg.Images
	f.BoolVar(&i.Serial, "serialize-image-pulls", false, "pull one image at a time")
	f.IntVar(&i.Parallel, "max-parallel-image-pulls", 5, "images pulled at once")
	f.DurationVar(&cfg.PullPatience, "image-pull-progress-deadline", 5*time.Minute, "give a pull up when the registry has sent nothing for so long")
	f.StringVar(&i.CredentialsPolicy, "image-pull-credentials-verification-policy", "NeverVerifyPreloadedImages",
		"for which images that are on the node a pod must have the pull secret: that, AlwaysVerify, NeverVerify or NeverVerifyAllowlistedImages")
	f.StringSliceVar(&i.Allowlist, "preloaded-images-verification-allowlist", nil, "images open to all pods with the last, REPOSITORY or PREFIX/* (repeatable)")
	f.StringVar(&cfg.RegistryHosts, "registry-config-dir", "/etc/containerd/certs.d", "mirrors and certificates: a directory for each registry with containerd's hosts.toml")
	f.IntVar(&i.GCHigh, "image-gc-high-threshold", 85, "percent of the disk in use above which unused images are removed")
	f.IntVar(&i.GCLow, "image-gc-low-threshold", 80, "percent of the disk in use at which that ends")
	f.DurationVar(&i.MinAge, "minimum-image-ttl-duration", 2*time.Minute, "images that came or were used later stay")
	f.DurationVar(&i.MaxAge, "image-maximum-gc-age", 0, "remove images unused for so long, however empty the disk (0: do not)")
	f.StringVar(&cfg.LogSize, "container-log-max-size", "10Mi", "size at which a container's log is rotated")
	f.IntVar(&cfg.LogFiles, "container-log-max-files", 5, "files kept of a container's log, the current one included")
}
