//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled says whether this program has failpoints.
const Enabled = true

// Hit marks a moment that cannot fail.
func Hit(name string) { _ = here.hit(name) }

// Err marks a moment that can fail: the caller treats an error like one of what it was about to do.
func Err(name string) error { return here.hit(name) }

// Number is a bound that a test may want to meet soon: what the environment says (MGR_FAILPOINT_ and the name in capitals, _ for
// the dots), or value.
func Number(name string, value int) int {
	text := os.Getenv("MGR_FAILPOINT_" + strings.ToUpper(strings.ReplaceAll(name, ".", "_")))
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return value
}

// here is what this process was asked to do. A point is a call without arguments, so there is nowhere else to keep it.
var here = start(os.Getenv("MGR_FAILPOINTS"), os.Getenv("MGR_FAILPOINTS_FILE"))

// poll is how often the file is looked at.
const poll = 5 * time.Millisecond

// asked is what shall happen at the points, and what did.
type asked struct {
	file string

	mu     sync.Mutex
	points map[string]*act
	seen   map[string]bool
}

// act is what shall happen at one point.
type act struct {
	verb, detail string
	at, hits     int // happens at the at-th hit; 0: at each
}

func start(env, file string) *asked {
	a := &asked{file: file, seen: map[string]bool{}}
	points, err := parse(env)
	if err != nil {
		fmt.Fprintln(os.Stderr, "MGR_FAILPOINTS:", err)
		os.Exit(2)
	}
	a.points = points
	if file != "" {
		was := a.read("")
		go a.follow(was)
	}
	return a
}

// follow reads the file again whenever it changes, as long as the process lives.
func (a *asked) follow(was string) {
	for {
		time.Sleep(poll)
		was = a.read(was)
	}
}

// read takes over what the file says if that is not what it was.
func (a *asked) read(was string) string {
	b, err := os.ReadFile(a.file)
	text := string(b)
	if err != nil || text == was {
		return text
	}
	points, err := parse(text)
	if err != nil {
		a.note(".fired", "cannot read: "+err.Error())
		return text
	}
	a.mu.Lock()
	a.points = points
	a.mu.Unlock()
	return text
}

// parse reads "name=verb:detail@n", separated by commas or white space.
func parse(text string) (map[string]*act, error) {
	points := map[string]*act{}
	for _, one := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		name, what, ok := strings.Cut(one, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q: write name=kill, name=hang:2s or name=error:EIO, with @n for the n-th time only", one)
		}
		if name == clockName {
			if err := setClock(what); err != nil {
				return nil, err
			}
			continue
		}
		p := &act{}
		what, count, counted := strings.Cut(what, "@")
		p.verb, p.detail, _ = strings.Cut(what, ":")
		if counted {
			n, err := strconv.Atoi(count)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("%q: after @ comes a number from 1 on", one)
			}
			p.at = n
		}
		if _, err := time.ParseDuration(p.detail); p.verb == "hang" && p.detail != "" && err != nil {
			return nil, fmt.Errorf("%q: %w", one, err)
		}
		if p.verb != "kill" && p.verb != "hang" && p.verb != "error" {
			return nil, fmt.Errorf("%q: %q is not kill, hang or error", one, p.verb)
		}
		points[name] = p
	}
	return points, nil
}

func (a *asked) hit(name string) error {
	a.mu.Lock()
	first := !a.seen[name]
	a.seen[name] = true
	p := a.points[name]
	due := false
	if p != nil {
		p.hits++
		due = p.at == 0 || p.hits == p.at
	}
	if first {
		a.note(".seen", name)
	}
	if due {
		a.note(".fired", fmt.Sprintf("%s=%s hit %d", name, p.verb, p.hits))
	}
	if due && p.verb == "kill" {
		a.kill() // with the lock: nobody gets past another point meanwhile
	}
	a.mu.Unlock()
	if !due {
		return nil
	}
	if p.verb == "error" {
		return errorOf(name, p.detail)
	}
	if p.detail == "" {
		select {}
	}
	d, _ := time.ParseDuration(p.detail) // parse has tried it
	time.Sleep(d)
	return nil
}

// kill ends the process where it stands.
func (a *asked) kill() {
	if a.file != "" {
		_ = os.Remove(a.file)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// note appends a line to a file beside the one that asks; what is written stays when the process is killed.
func (a *asked) note(suffix, line string) {
	if a.file == "" {
		return
	}
	f, err := os.OpenFile(a.file+suffix, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %d %s\n", time.Now().UTC().Format(time.RFC3339Nano), os.Getpid(), line)
}

func errorOf(name, detail string) error {
	errno := map[string]syscall.Errno{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EPIPE": syscall.EPIPE}
	if e, ok := errno[detail]; ok {
		return fmt.Errorf("failpoint %s: %w", name, e)
	}
	return fmt.Errorf("failpoint %s: %s", name, detail)
}
