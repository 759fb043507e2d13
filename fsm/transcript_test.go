package fsm

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the results into testdata/*.txt instead of comparing")

// TestTranscripts runs testdata/*.txt. A file is blocks of input, a line "----", and what comes out. Lines of input:
//
//	apply [term=N]                       an entry of the commands that follow, indented by one space
//	 command [actor=A] [cause=C] [term=N]  its ops follow, indented by two
//	  create|update|delete|check RESOURCE KEY [if=REV] [ifuid=U] [uid=U] [data=D] [claims=A,B]
//	state | list RESOURCE [ns=NS] [after=KEY] | at RESOURCE REV | claim NAME | restore | garbage HEX
//	watch NAME RESOURCE REV | poll NAME
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runTranscript(t, string(b))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(b) {
				t.Errorf("%s: the results differ (go test -rewrite shows them with git diff); got:\n%s", file, got)
			}
		})
	}
}

func runTranscript(t *testing.T, text string) string {
	s := &session{f: New(Options{HistoryEvents: 8}), cursors: map[string]*Cursor{}}
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		out.WriteString(input + "\n----\n")
		s.out = &out
		var lines []string
		for line := range strings.SplitSeq(input, "\n") {
			if strings.HasPrefix(line, " ") && len(lines) > 0 {
				lines[len(lines)-1] += "\n" + line
			} else if !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		for _, line := range lines {
			s.run(t, line)
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

type session struct {
	f       *FSM
	out     *strings.Builder
	cursors map[string]*Cursor
}

// words splits "verb a b k=v" into its plain words and its k=v.
func words(line string) (plain []string, named map[string]string) {
	named = map[string]string{}
	for _, w := range strings.Fields(line) {
		if k, v, ok := strings.Cut(w, "="); ok {
			named[k] = v
		} else {
			plain = append(plain, w)
		}
	}
	return plain, named
}

func number(t *testing.T, s string) uint64 {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *session) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

func (s *session) run(t *testing.T, line string) {
	head, rest, _ := strings.Cut(line, "\n")
	w, named := words(head)
	switch w[0] {
	case "apply":
		s.apply(t, rest, number(t, named["term"]))
	case "state":
		s.state()
	case "list":
		for o := range s.f.State().Resource(w[1]).List(named["ns"], named["after"]) {
			s.printf("%s\n", show(o))
		}
	case "at":
		v, err := s.f.StateAt(w[1], number(t, w[2]))
		if err != nil {
			s.printf("%v\n", err)
			return
		}
		s.printf("revision %d, %d objects\n", v.Revision(), v.Len(""))
		for o := range v.List("", "") {
			s.printf("%s\n", show(o))
		}
	case "restore":
		var b bytes.Buffer
		if err := s.f.State().WriteSnapshot(&b); err != nil {
			t.Fatal(err)
		}
		s.printf("%v\n", s.f.Restore(&b))
	case "watch":
		c, err := s.f.Watch(w[2], number(t, w[3]))
		s.cursors[w[1]] = c
		s.printf("%v\n", err)
	case "poll":
		s.poll(s.cursors[w[1]])
	default:
		t.Fatalf("unknown line %q", head)
	}
}

func (s *session) poll(c *Cursor) {
	for {
		events, revision, _, err := c.Poll()
		for _, e := range events {
			s.printf("%d %s by %s: %s\n", e.Revision, [...]string{"", "added", "modified", "deleted"}[e.Type], e.Actor, show(e.Object))
			if e.Prev != nil {
				s.printf("  before: %s\n", show(e.Prev))
			}
		}
		if len(events) == 0 {
			s.printf("at %d, error %v\n", revision, err)
			return
		}
	}
}

func (s *session) state() {
	st := s.f.State()
	s.printf("index %d revision %d\n", st.Index(), st.Revision())
	for _, r := range st.Resources() {
		v := st.Resource(r)
		s.printf("%s: %d\n", r, v.Len(""))
		for o := range v.List("", "") {
			s.printf("  %s\n", show(o))
		}
	}
	for claim, k := range st.Claims("") {
		s.printf("claim %s: %s\n", claim, k)
	}
}

func show(o *Object) string {
	if o == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s uid=%s rev=%d created=%d claims=%s %s", o.Key, o.UID, o.Revision, o.Created,
		strings.Join(o.Claims, ","), o.Data)
}

func (s *session) apply(t *testing.T, text string, term uint64) {
	var commands []Command
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		w, named := words(line)
		if w[0] == "command" {
			commands = append(commands, Command{Actor: named["actor"], Cause: named["cause"], Term: number(t, named["term"])})
			continue
		}
		c := &commands[len(commands)-1]
		c.Ops = append(c.Ops, parseOp(t, w, named))
	}
	// Not EncodeEntry: what it would refuse must be refused by Apply too.
	entry := JoinEntry(nil)
	var encoded [][]byte
	for i := range commands {
		encoded = append(encoded, rawCommand(&commands[i]))
	}
	if len(encoded) > 0 {
		entry = JoinEntry(encoded)
	}
	results, err := s.f.Apply(s.f.State().Index()+1, term, entry)
	if err != nil {
		s.printf("%v\n", err)
	}
	for i, r := range results {
		s.printf("%d: revision %d\n", i, r.Revision)
		if r.Refusal != nil {
			s.printf("  op %d: %v\n", r.Refusal.Op, r.Refusal)
		}
		for _, o := range r.Objects {
			s.printf("  %s\n", show(o))
		}
	}
}

func parseOp(t *testing.T, w []string, named map[string]string) Op {
	verb := slices.Index([]string{"", "create", "update", "delete", "check"}, w[0])
	if verb < 0 {
		verb = 9
	}
	op := Op{Verb: Verb(verb), Key: Key{Resource: w[1], Name: w[2]}, UID: named["uid"]}
	if ns, name, ok := strings.Cut(w[2], "/"); ok {
		op.Key.Namespace, op.Key.Name = ns, name
	}
	op.If = Precondition{Revision: number(t, named["if"]), UID: named["ifuid"]}
	if named["claims"] != "" {
		op.Claims = strings.Split(named["claims"], ",")
	}
	if op.Verb == Create || op.Verb == Update {
		op.Data, op.RevisionAt = document(named["data"])
		if at, ok := named["at"]; ok {
			op.RevisionAt = uint32(number(t, at))
		}
	}
	return op
}

// document is an object of the test's with room for the revision.
func document(data string) ([]byte, uint32) {
	const head = `{"resourceVersion":"`
	return []byte(head + `","data":"` + data + `"}`), uint32(len(head))
}

// rawCommand encodes without checking limits.
func rawCommand(c *Command) []byte {
	b := appendString(nil, c.Actor)
	b = appendString(b, c.Cause)
	b = append(b, byte(c.Term), byte(len(c.Ops)))
	for i := range c.Ops {
		b = c.Ops[i].append(b)
	}
	return b
}
