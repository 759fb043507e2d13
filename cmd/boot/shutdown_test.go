package boot

import (
	"fmt"
	"testing"
	"time"
)

func TestShutdownGroups(t *testing.T) {
	for _, c := range []struct {
		shutdown Shutdown
		want     string
	}{
		{Shutdown{}, "[] <nil>"},
		{Shutdown{Period: 30 * time.Second, Critical: 10 * time.Second}, "[{0 20s} {2000000000 10s}] <nil>"},
		{Shutdown{ByPriority: []string{"1000=1m", "-5=0s"}}, "[{1000 1m0s} {-5 0s}] <nil>"},
		{Shutdown{Period: time.Second, Critical: time.Minute}, "[] of a shutdown grace period of 1s critical pods cannot have 1m0s"},
		{Shutdown{Period: 1, ByPriority: []string{"1=1s"}}, "[] --shutdown-grace-period-by-pod-priority and --shutdown-grace-period exclude each other"},
		{Shutdown{ByPriority: []string{"high=1s"}}, `[] --shutdown-grace-period-by-pod-priority "high=1s": the priority is not a number`},
		{Shutdown{ByPriority: []string{"1"}}, `[] --shutdown-grace-period-by-pod-priority "1" is not of the form PRIORITY=DURATION, as 1000=30s`},
	} {
		groups, err := c.shutdown.groups()
		if got := fmt.Sprint(groups, err); got != c.want {
			t.Errorf("%+v: %s, want %s", c.shutdown, got, c.want)
		}
	}
}
