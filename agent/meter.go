package agent

import (
	"maps"
	"sync"
	"time"

	"mgr/agent/machine"
)

const (
	// rateShortest is the shortest time over which the use of processors is a rate worth telling.
	rateShortest = time.Second
	// rateWindow is the time over which it is told when somebody asks regularly.
	rateWindow = 15 * time.Second
	// rateLongest: a measurement from before says nothing about now.
	rateLongest = 60 * time.Second
	// meterMemory is how long is kept what nobody asks for any more.
	meterMemory = 5 * time.Minute
)

// meter makes rates of growing numbers, and keeps for a while what is expensive to measure. It measures nothing by itself: a node
// that nobody asks does nothing.
type meter struct {
	mu     sync.Mutex
	tracks map[string]track
	uses   map[string]*keptUse
}

// reading is a growing number at a time.
type reading struct {
	at    time.Time
	value uint64
}

// track is what is known of one number: readings of the last minute, the oldest first, a second or more apart.
type track []reading

type keptUse struct {
	at  time.Time
	use machine.Use
	err error
}

func newMeter() *meter { return &meter{tracks: map[string]track{}, uses: map[string]*keptUse{}} }

// rate takes a reading and returns how much the number grows in a second, and over which time that was seen: some fifteen seconds
// if somebody asks regularly. ok is false when it is not known yet. since is when the number was 0; zero: not known.
func (m *meter) rate(key string, now reading, since time.Time) (perSecond uint64, window time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.tracks[key]
	if n := len(old); n > 0 && now.value < old[n-1].value {
		old = nil // another begins under the same name
	}
	if len(old) == 0 && !since.IsZero() {
		old = track{{at: since}}
	}
	var base reading
	first := 0 // of those that are still of use
	for i, r := range old {
		age := now.at.Sub(r.at)
		if age > rateLongest || age < rateShortest {
			continue
		}
		if !ok || age >= rateWindow {
			base, first, ok = r, i, true
		}
	}
	keep := old[first:]
	if len(keep) == 0 || now.at.Sub(keep[len(keep)-1].at) >= rateShortest {
		keep = append(keep, now)
	}
	m.tracks[key] = keep
	if !ok {
		return 0, 0, false
	}
	window = now.at.Sub(base.at)
	return uint64(float64(now.value-base.value) / window.Seconds()), window, true
}

// use returns a use of a disk that is not older than fresh; measure is called if there is none.
func (m *meter) use(key string, fresh time.Duration, measure func() (machine.Use, error)) (machine.Use, error) {
	m.mu.Lock()
	k := m.uses[key]
	m.mu.Unlock()
	if k != nil && time.Since(k.at) < fresh {
		return k.use, k.err
	}
	k = &keptUse{at: time.Now()}
	k.use, k.err = measure()
	m.mu.Lock()
	m.uses[key] = k
	m.mu.Unlock()
	return k.use, k.err
}

// tidy forgets what nobody has asked for lately.
func (m *meter) tidy(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.tracks, func(_ string, t track) bool { return now.Sub(t[len(t)-1].at) > meterMemory })
	maps.DeleteFunc(m.uses, func(_ string, k *keptUse) bool { return now.Sub(k.at) > meterMemory })
}
