package fault

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// role is in which part a master is killed.
type role string

const (
	leader   role = "leader"
	follower role = "follower"
	joiner   role = "joiner" // has lost everything and is being installed anew
)

var roles = []role{leader, follower, joiner}

// trigger is what makes a master reach a point.
type trigger string

const (
	byLoad     trigger = "load"     // requests that go on all the time
	byWatch    trigger = "watch"    // somebody watches there what the load writes
	byStart    trigger = "start"    // the master is killed and starts anew, from its disk
	byElection trigger = "election" // the leader is killed; whoever follows it reaches the point
	byHandover trigger = "handover" // the master is stopped as an administrator does
	byJoin     trigger = "join"     // another master, or for a joiner this one, has lost its data and joins again
	byTorn     trigger = "torn"     // the master was killed in the middle of a write of its log, and starts anew
	byPod      trigger = "pod"      // a pod waits for a node
	byOthers   trigger = "others"   // another test goes through it, see there
)

// point is a failpoint and how a master in each role gets there. A role that is missing cannot: why says why not.
type point struct {
	name  string
	roles map[role]trigger
	why   string
}

// Shapes of points.
func everywhere(name string) point {
	return point{name, map[role]trigger{leader: byLoad, follower: byLoad, joiner: byJoin}, ""}
}

func leading(name string, by trigger) point {
	return point{name, map[role]trigger{leader: by}, "only a leader does this"}
}

func following(name string, by trigger, why string) point {
	return point{name, map[role]trigger{follower: by, joiner: byJoin}, why}
}

// points are all failpoints of the program: TestTableOfPoints compares them with the source.
var points = []point{
	everywhere("log.store.before"),
	everywhere("log.store.after"),
	everywhere("entry.apply.before"),
	everywhere("entry.apply.after"),
	everywhere("snapshot.take"),
	everywhere("snapshot.write.before"),
	everywhere("snapshot.close.before"),
	following("snapshot.restore.before", byStart, "a leader has its state; it restores when it starts, as a follower"),
	following("snapshot.restore.after", byStart, "as above"),

	leading("proposal.queued", byLoad),
	leading("proposal.send.before", byLoad),
	leading("proposal.send.after", byLoad),
	leading("proposal.committed", byLoad),
	leading("proposal.acknowledged", byLoad),
	leading("entries.send.before", byLoad),
	leading("commit.push.before", byLoad),

	leading("leadership.won", byElection),
	leading("leadership.entry.committed", byElection),
	leading("leadership.begun", byElection),
	leading("duties.start", byElection),
	leading("duties.caughtup", byElection),
	leading("pods.bind.before", byPod),
	leading("pods.bind.after", byPod),
	leading("transfer.drained", byHandover),
	leading("transfer.begun", byHandover),
	leading("transfer.done", byHandover),

	leading("read.index.taken", byLoad),
	leading("read.index.confirmed", byLoad),
	leading("read.index.answered", byLoad),
	everywhere("read.index.received"),
	{"forward.send.before", map[role]trigger{follower: byLoad}, "a leader has nobody to hand a request to; a joiner serves nobody yet"},
	{"forward.answered", map[role]trigger{follower: byLoad}, "as above"},
	{"watch.send", map[role]trigger{leader: byWatch, follower: byWatch}, "a joiner has no watchers yet"},
	{"watch.flush.before", map[role]trigger{leader: byWatch, follower: byWatch}, "as above"},
	{"watch.flush.after", map[role]trigger{leader: byWatch, follower: byWatch}, "as above"},

	leading("config.change.sent", byJoin),
	leading("config.change.committed", byJoin),
	leading("member.ask.received", byJoin),
	leading("member.ask.done", byJoin),
	leading("member.admit.before", byJoin),
	leading("member.promote.before", byJoin),
	leading("member.promote.after", byJoin),
	{"join.keys.received", map[role]trigger{joiner: byJoin}, "the others have the keys"},
	{"join.keys.saved", map[role]trigger{joiner: byJoin}, "as above"},
	{"join.ask.before", map[role]trigger{joiner: byJoin}, "the others are members"},
	following("join.mark.before", byStart, "a leader has marked itself long before it can lead"),
	following("join.mark.after", byStart, "as above"),
	{"keys.save.next", map[role]trigger{joiner: byJoin}, "the keys are saved once; by a founder: TestKilledAtTheBirthOfACluster"},
	{"join.bootstrap.before", map[role]trigger{leader: byOthers}, "the first master of a cluster, once: TestKilledAtTheBirthOfACluster"},
	{"join.bootstrap.after", map[role]trigger{leader: byOthers}, "as above"},
	{"restore.propose.before", map[role]trigger{leader: byOthers}, "a restore into a running quorum, by its leader: TestKilledWhileRestoring"},
	{"restore.propose.after", map[role]trigger{leader: byOthers}, "as above"},
	{"restore.keys.saved", map[role]trigger{leader: byOthers}, "a restore into a new machine, by the command line: TestKilledWhileRestoring"},
	{"restore.seeded", map[role]trigger{leader: byOthers}, "as above"},
	{"restore.rename.before", map[role]trigger{leader: byOthers}, "as above"},
	{"restore.rename.after", map[role]trigger{leader: byOthers}, "as above"},
	{"recover.begun", map[role]trigger{leader: byOthers}, "a lost quorum, by the command line: TestKilledWhileRecovering"},
	{"recover.term.stored", map[role]trigger{leader: byOthers}, "as above"},
	{"recover.configured", map[role]trigger{leader: byOthers}, "as above"},
	{"recover.epoch.kept", map[role]trigger{leader: byOthers}, "as above"},
	{"state.tamper", map[role]trigger{follower: byOthers}, "not a place to die at: it makes a state differ (TestDivergedPeer…)"},
	{"reinstall.marked", map[role]trigger{follower: byOthers}, "a peer whose data cannot be trusted: TestKilledWhileInstalledAnew"},
	{"reinstall.aside.before", map[role]trigger{joiner: byOthers}, "as above"},
	{"reinstall.aside.cleared", map[role]trigger{joiner: byOthers}, "as above"},
	{"reinstall.aside.after", map[role]trigger{joiner: byOthers}, "as above"},
}

// diskPoints are those of raftnode/disk/points.go, whose names are put together there.
func diskPoints() (all []point) {
	add := func(prefix string, by map[role]trigger, why string, acts ...string) {
		for _, act := range acts {
			all = append(all, point{prefix + "." + act, by, why})
		}
	}
	both := func(act string) []string { return []string{act + ".before", act + ".after"} }
	anybody := map[role]trigger{leader: byLoad, follower: byLoad, joiner: byJoin}
	for _, act := range []string{"create", "sync", "remove", "syncdir", "write"} {
		add("disk.log", anybody, "", both(act)...)
		add("disk.snapshot", anybody, "", both(act)...)
	}
	add("disk.log", anybody, "", "write.torn")
	add("disk.snapshot", anybody, "", "write.torn")
	add("disk.snapshot", anybody, "", both("rename")...)
	add("disk.log", map[role]trigger{follower: byTorn},
		"a log is cut where a crash left it unfinished, at the start, so by no leader; a joiner has none", both("truncate")...)
	voting := map[role]trigger{leader: byElection, follower: byLoad, joiner: byJoin}
	for _, act := range []string{"write", "sync"} {
		add("disk.vote", voting, "", both(act)...)
	}
	add("disk.vote", voting, "", "write.torn")
	beginner := map[role]trigger{joiner: byJoin}
	for _, act := range []string{"create", "rename"} {
		add("disk.vote", beginner, "the file is made once", both(act)...)
	}
	for _, act := range []string{"create", "write", "sync", "rename"} {
		add("disk.other", beginner, "the note that keeps the version before out is made once (raftnode/bolt.go)", both(act)...)
	}
	add("disk.other", beginner, "as above", "write.torn")
	add("disk.other", map[role]trigger{follower: byStart, joiner: byJoin}, "the directory above changes at the start only", both("syncdir")...)
	return all
}

func allPoints() []point { return append(slices.Clone(points), diskPoints()...) }

// TestTableOfPoints finds the calls of failpoint.Hit and failpoint.Err in the source: each has a row in the table, each row a call.
func TestTableOfPoints(t *testing.T) {
	inSource := map[string]string{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, name := range hits(f) {
			if at, twice := inSource[name]; twice {
				t.Errorf("%s: the point %s is in %s as well: a name is at one place", path, name, at)
			}
			inSource[name] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if _, ok := inSource[p.name]; !ok {
			t.Errorf("the table has %s, the source has not", p.name)
		}
		delete(inSource, p.name)
	}
	for name, path := range inSource {
		if strings.HasPrefix(path, filepath.Join(root, "agent")+"/") {
			continue // a node's: test/node kills agents there
		}
		t.Errorf("%s: the point %s is not in the table", path, name)
	}
	for _, p := range allPoints() {
		if len(p.roles) < len(roles) && p.why == "" {
			t.Errorf("%s: say why it is not reached in every role", p.name)
		}
	}
	if n := len(allPoints()); n < 40 {
		t.Errorf("only %d points", n)
	}
}

// hits are the literal names that a file gives to failpoint.Hit and failpoint.Err.
func hits(f *ast.File) (names []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok || x.Name != "failpoint" || !slices.Contains([]string{"Hit", "Err"}, sel.Sel.Name) {
			return true
		}
		if lit, ok := call.Args[0].(*ast.BasicLit); ok {
			if name, err := strconv.Unquote(lit.Value); err == nil {
				names = append(names, name)
			}
		}
		return true
	})
	return names
}
