package boot

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"mgr/agent"
)

// Shutdown says what pods get when the node's machine shuts down.
type Shutdown struct {
	Period, Critical time.Duration
	ByPriority       []string // PRIORITY=DURATION; if there are any, they count instead
}

func (s Shutdown) groups() ([]agent.ShutdownGrace, error) {
	if len(s.ByPriority) == 0 {
		return agent.ShutdownGroups(s.Period, s.Critical)
	}
	if s.Period != 0 || s.Critical != 0 {
		return nil, fmt.Errorf("--shutdown-grace-period-by-pod-priority and --shutdown-grace-period exclude each other")
	}
	var out []agent.ShutdownGrace
	for _, text := range s.ByPriority {
		priority, grace, _ := strings.Cut(text, "=")
		p, err := strconv.ParseInt(priority, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("--shutdown-grace-period-by-pod-priority %q: the priority is not a number", text)
		}
		d, err := time.ParseDuration(grace)
		if err != nil || d < 0 {
			return nil, fmt.Errorf("--shutdown-grace-period-by-pod-priority %q is not of the form PRIORITY=DURATION, as 1000=30s", text)
		}
		out = append(out, agent.ShutdownGrace{Priority: int32(p), Grace: d})
	}
	return out, nil
}
