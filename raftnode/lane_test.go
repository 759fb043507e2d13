package raftnode

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// onlyPipeline is a network with one pipeline, whose answers the test gives.
type onlyPipeline struct {
	wire
	p *fakePipeline
}

func (o onlyPipeline) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return o.p, nil
}

type fakePipeline struct {
	sent    chan *raft.AppendEntriesRequest
	answers chan raft.AppendFuture
}

func (f *fakePipeline) Consumer() <-chan raft.AppendFuture { return f.answers }
func (f *fakePipeline) Close() error                       { return nil }
func (f *fakePipeline) AppendEntries(r *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f.sent <- r
	return nil, nil
}

// fakeAnswer is the future of a network pipeline.
type fakeAnswer struct {
	request *raft.AppendEntriesRequest
	success bool
}

func (a fakeAnswer) Error() error                        { return nil }
func (a fakeAnswer) Start() time.Time                    { return time.Time{} }
func (a fakeAnswer) Request() *raft.AppendEntriesRequest { return a.request }
func (a fakeAnswer) Response() *raft.AppendEntriesResponse {
	return &raft.AppendEntriesResponse{Term: a.request.Term, Success: a.success}
}

func appendRequest(first, last uint64) *raft.AppendEntriesRequest {
	r := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: first - 1}
	for i := first; i <= last; i++ {
		r.Entries = append(r.Entries, &raft.Log{Index: i, Term: 1})
	}
	return r
}

// laneTest is a lane after raft has sent entry 1 and got its answer.
type laneTest struct {
	*testing.T
	wire  *fakePipeline
	early *early
	lane  raft.AppendPipeline
}

func testLane(t *testing.T, f func(l *laneTest)) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakePipeline{sent: make(chan *raft.AppendEntriesRequest, 16), answers: make(chan raft.AppendFuture)}
		l := &laneTest{T: t, wire: w, early: newEarly(onlyPipeline{p: w})}
		var err error
		if l.lane, err = l.early.AppendEntriesPipeline("a", "a:1"); err != nil {
			t.Fatal(err)
		}
		defer l.lane.Close()
		l.ask(appendRequest(1, 1))
		l.answer(true)
		l.told(1)
		f(l)
	})
}

// ask is raft's own request.
func (l *laneTest) ask(r *raft.AppendEntriesRequest) {
	l.Helper()
	if _, err := l.lane.AppendEntries(r, &raft.AppendEntriesResponse{}); err != nil {
		l.Fatal(err)
	}
}

// answer answers what was sent first.
func (l *laneTest) answer(success bool) {
	l.Helper()
	synctest.Wait()
	select {
	case r := <-l.wire.sent:
		l.wire.answers <- fakeAnswer{r, success}
	default:
		l.Fatal("nothing was sent")
	}
}

// told demands that raft is given the answer to a request that ends with entry last; 0: none.
func (l *laneTest) told(last uint64) {
	l.Helper()
	synctest.Wait()
	select {
	case f := <-l.lane.Consumer():
		entries := f.Request().Entries
		if last == 0 || len(entries) == 0 || entries[len(entries)-1].Index != last || f.Response().Term != 1 {
			l.Fatalf("raft was told of %d entries where it waited for %d", len(entries), last)
		}
	default:
		if last != 0 {
			l.Fatalf("raft was not told of entry %d", last)
		}
	}
}

func (l *laneTest) quiet() {
	l.Helper()
	synctest.Wait()
	if len(l.wire.sent) > 0 {
		l.Fatal("something was sent twice")
	}
}

// Entries that went ahead are not sent again, and raft hears of them after it asked, whenever the answer came.
func TestLaneClaims(t *testing.T) {
	for _, late := range []bool{false, true} {
		testLane(t, func(l *laneTest) {
			l.early.send(appendRequest(2, 3))
			if !late {
				l.answer(true)
			}
			l.told(0)
			l.ask(appendRequest(2, 3))
			if late {
				l.answer(true)
			}
			l.told(3)
			l.quiet()
		})
	}
}

// Where raft wants to send otherwise, it does, and the answer to what went ahead is not its business.
func TestLaneOtherRequest(t *testing.T) {
	testLane(t, func(l *laneTest) {
		l.early.send(appendRequest(2, 2))
		synctest.Wait()
		l.ask(appendRequest(2, 3))
		l.answer(true)
		l.told(0)
		l.answer(true)
		l.told(3)
		l.quiet()
	})
}

// What is not the continuation does not go ahead, nor does news of an entry that the follower may not have.
func TestLaneGaps(t *testing.T) {
	testLane(t, func(l *laneTest) {
		l.early.send(appendRequest(3, 3))
		l.early.send(&raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 2, LeaderCommitIndex: 2})
		old := appendRequest(2, 2)
		old.Term = 0
		l.early.send(old)
		l.quiet()
		l.early.send(&raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1, LeaderCommitIndex: 1})
		l.answer(true)
		l.told(0)
	})
}

// After a refusal raft reads no answers; hashicorp/raft's pipeline would then block who sends for ever, heartbeats going on.
func TestLaneRefused(t *testing.T) {
	testLane(t, func(l *laneTest) {
		l.ask(appendRequest(2, 2))
		l.ask(appendRequest(3, 3))
		l.answer(false)
		l.told(2)
		l.answer(false) // taken, though nobody reads it
		if _, err := l.lane.AppendEntries(appendRequest(4, 4), &raft.AppendEntriesResponse{}); !errors.Is(err, raft.ErrPipelineShutdown) {
			l.Fatalf("a lane that was refused answers %v", err)
		}
	})
}

// hashicorp/raft bounds a request in entries only (nomad#26974): ours is cut, and raft goes on behind what was sent.
func TestAppendBytes(t *testing.T) {
	testLane(t, func(l *laneTest) {
		r := appendRequest(2, 40)
		for _, e := range r.Entries {
			e.Data = make([]byte, 512<<10)
		}
		l.ask(r)
		if n := len(r.Entries); n != maxAppendBytes/(512<<10) {
			t.Fatalf("%d entries of half a megabyte go at once", n)
		}
		l.answer(true)
		l.told(9)
	})
}
