package sim

import (
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"
)

// TestMain keeps what is shared by all bubbles quiet: klog writes to nowhere, and errors that client-go reports do not wait for
// each other (the clock of that is the process's, while every bubble has its own).
func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard())
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// number is an environment variable, or what counts without it.
func number(t *testing.T, name string, without uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return without
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestSeeds runs MGR_SEEDS seeds (default 500) from MGR_FROM (default 0) on. MGR_SEED runs one seed several times instead.
func TestSeeds(t *testing.T) {
	from, n := number(t, "MGR_FROM", 0), number(t, "MGR_SEEDS", 500)
	times := uint64(1)
	if os.Getenv("MGR_SEED") != "" {
		from, n, times = number(t, "MGR_SEED", 0), 1, number(t, "MGR_TIMES", 5)
	}
	var mu sync.Mutex
	var all counts
	t.Run("seed", func(t *testing.T) {
		for seed := from; seed < from+n; seed++ {
			for range times {
				t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
					t.Parallel()
					p := planOf(seed)
					p.verbose = os.Getenv("MGR_SEED") != ""
					r := runSeed(t, p)
					if len(r.broken) > 0 {
						t.Errorf("%v", r)
					} else if times > 1 {
						t.Logf("seed %d (%v)\n%v", seed, p, r.counts)
					}
					mu.Lock()
					defer mu.Unlock()
					all.plus(r.counts)
				})
			}
		}
	})
	t.Log(all)
}
