package sim

import (
	"fmt"
	"sync/atomic"
	"time"
)

// totals of one world.
type totals struct {
	clock  atomic.Int64 // orders what clients do: in a bubble many things happen at one instant
	record record
	events atomic.Int64 // that watchers were sent
	gone   atomic.Int64 // answers 410
	counts
}

func (t *totals) add(r writeRecord) {
	t.record.mu.Lock()
	defer t.record.mu.Unlock()
	t.record.writes = append(t.record.writes, r)
}

func (t *totals) addRead(r readRecord) {
	t.record.mu.Lock()
	defer t.record.mu.Unlock()
	t.record.reads = append(t.record.reads, r)
}

func (t *totals) addList(r listRecord) {
	t.record.mu.Lock()
	defer t.record.mu.Unlock()
	t.record.lists = append(t.record.lists, r)
}

// counts are what is printed of one or many seeds.
type counts struct {
	seeds, failovers, terms, crashes, episodes int
	virtual                                    time.Duration
	acknowledged, refused, unknown, reads      int
	events, gone, revisions, entries           int
	broken                                     int
}

// sum closes the counts of a world.
func (t *totals) sum() counts {
	c := t.counts
	c.seeds = 1
	for _, w := range t.record.writes {
		switch w.outcome {
		case acknowledged:
			c.acknowledged++
		case refused:
			c.refused++
		default:
			c.unknown++
		}
	}
	c.reads = len(t.record.reads) + len(t.record.lists)
	c.events, c.gone = int(t.events.Load()), int(t.gone.Load())
	return c
}

func (c *counts) plus(o counts) {
	c.seeds += o.seeds
	c.failovers += o.failovers
	c.terms += o.terms
	c.crashes += o.crashes
	c.episodes += o.episodes
	c.virtual += o.virtual
	c.acknowledged += o.acknowledged
	c.refused += o.refused
	c.unknown += o.unknown
	c.reads += o.reads
	c.events += o.events
	c.gone += o.gone
	c.revisions += o.revisions
	c.entries += o.entries
	c.broken += o.broken
}

func (c counts) String() string {
	return fmt.Sprintf(`%d seeds, %.1f virtual hours: %d faults (%d crashes), %d terms, %d changes of the leader
  %d log entries compared on all peers, %d revisions
  registers: %d writes acknowledged, %d refused, %d of unknown outcome, %d linearizable reads and lists
  watches: %d events checked, %d resumptions refused with 410
  rules broken: %d`,
		c.seeds, c.virtual.Hours(), c.episodes, c.crashes, c.terms, c.failovers, c.entries, c.revisions,
		c.acknowledged, c.refused, c.unknown, c.reads, c.events, c.gone, c.broken)
}
