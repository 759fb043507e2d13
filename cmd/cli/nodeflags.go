package cli

import (
	"time"

	"github.com/spf13/pflag"

	"mgr/agent/evict"
	"mgr/cmd/boot"
)

// addNodeFlags adds what an agent may be told about the node's resources and what happens when they run short, by kubelet's names.
func addNodeFlags(f *pflag.FlagSet, cfg *boot.NodeConfig) {
	f.StringSliceVar(&cfg.Labels, "node-labels", nil, "labels of the node, key=value (repeatable)")
	f.StringSliceVar(&cfg.Labels, "node-label", nil, "the same")
	_ = f.MarkHidden("node-label") // an older name
	f.StringSliceVar(&cfg.Taints, "register-with-taints", nil, "taints of a node that is new to the cluster, key=value:effect (repeatable)")
	f.IntVar(&cfg.MaxPods, "max-pods", 110, "pods that the node takes")
	f.StringToStringVar(&cfg.KubeReserved, "kube-reserved", nil, "kept for mgr and containerd, as cpu=200m,memory=256Mi,ephemeral-storage=1Gi,pid=1000")
	f.StringToStringVar(&cfg.SystemReserved, "system-reserved", nil, "kept for the system's own services, in the same way")
	e := &cfg.Eviction
	f.StringToStringVar(&e.Hard, "eviction-hard", evict.DefaultHard(), "evict pods at once when less is left: SIGNAL=QUANTITY or SIGNAL=SHARE%")
	f.StringToStringVar(&e.Soft, "eviction-soft", nil, "evict pods when less is left for some time")
	f.StringToStringVar(&e.SoftGrace, "eviction-soft-grace-period", nil, "that time, as memory.available=90s")
	f.StringToStringVar(&e.MinReclaim, "eviction-minimum-reclaim", nil, "what must be left beyond the threshold before eviction ends")
	f.DurationVar(&e.MaxPodGrace, "eviction-max-pod-grace-period", 0, "what pods evicted by a soft threshold get at most to end")
	f.DurationVar(&e.Transition, "eviction-pressure-transition-period", 5*time.Minute, "how long a condition stays after the pressure is gone")
}
