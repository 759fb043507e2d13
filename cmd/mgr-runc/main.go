// Command mgr-runc stands between the shims and runc. Of the five programs that a container needs in its life, four only look at
// runc's record of it and make a system call or two: start, kill, delete, and the shim's own delete, with which containerd makes
// sure of the third. To execute runc, or the shim, costs ten to twenty times as much as what they do then. This program is small
// and does these itself when the case is the plain one (record.go); everything else, and whatever it is not sure of, it leaves to
// runc or to the shim by becoming it. So every error message is theirs.
//
// It stands beside the shim and carries the shim's sum in its name: mgr-runc-SUM-SHIMSUM beside mgr-shim-SHIMSUM.
package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	args := os.Args[1:]
	if c, ok := parseRunc(args); ok {
		if c.run() {
			return
		}
		become("runc")
	}
	if c, ok := parseShim(args); ok && c.deleted() {
		return
	}
	if isShim(args) {
		become(shimPath())
	}
	if slices.Contains(args, "create") {
		// It lives for some 50 ms, in which neither collecting garbage nor a second thread pays: an eighth of the CPU was for these. The
		// second setting it hands on to the process that it prepares, until that executes the user's program.
		_ = os.Setenv("GOGC", "off")
		_ = os.Setenv("GOMAXPROCS", "1")
	}
	become("runc")
}

// become replaces this process by a program with the same arguments.
func become(program string) {
	path, err := exec.LookPath(program)
	if err == nil {
		err = syscall.Exec(path, append([]string{program}, os.Args[1:]...), os.Environ())
	}
	_, _ = os.Stderr.WriteString("mgr-runc: execute " + program + ": " + err.Error() + "\n")
	os.Exit(127)
}

// shimPath is the shim that this program was put beside.
func shimPath() string {
	self, err := os.Executable()
	if err != nil {
		return "containerd-shim-runc-v2"
	}
	dir, name := filepath.Split(self)
	return filepath.Join(dir, "mgr-shim-"+name[strings.LastIndexByte(name, '-')+1:])
}

// isShim says whether containerd means the shim: its options have one dash, runc's have two.
func isShim(args []string) bool {
	return len(args) > 0 && strings.HasPrefix(args[0], "-") && !strings.HasPrefix(args[0], "--")
}

// command is a call of runc as the shim makes it.
type command struct {
	verb   string
	root   string // the directory with runc's records
	id     string
	signal syscall.Signal
	force  bool
}

// parseRunc understands the calls that may be done here: runc --root DIR --log FILE --log-format json VERB [--force] ID [SIGNAL].
func parseRunc(args []string) (c command, ok bool) {
	for len(args) > 1 && strings.HasPrefix(args[0], "--") {
		switch args[0] {
		case "--root":
			c.root = args[1]
		case "--log", "--log-format":
		default:
			return c, false
		}
		args = args[2:]
	}
	if c.root == "" || len(args) < 2 {
		return c, false
	}
	c.verb, args = args[0], args[1:]
	if c.verb == "delete" && args[0] == "--force" {
		c.force, args = true, args[1:]
	}
	switch {
	case c.verb == "kill" && len(args) == 2:
		for _, digit := range args[1] {
			if digit < '0' || digit > '9' {
				return c, false
			}
			c.signal = c.signal*10 + syscall.Signal(digit-'0')
		}
	case (c.verb == "start" || c.verb == "delete") && len(args) == 1:
	default:
		return c, false
	}
	c.id = args[0]
	return c, c.id != "" && c.id == filepath.Base(c.id) && !strings.HasPrefix(c.id, "-") && !strings.HasPrefix(c.id, ".")
}

// shimDelete is containerd's call of the shim to remove what a container left: shim … -id ID -bundle DIR … delete.
type shimDelete struct{ namespace, id, bundle string }

func parseShim(args []string) (c shimDelete, ok bool) {
	if !isShim(args) || args[len(args)-1] != "delete" {
		return c, false
	}
	for i := range len(args) - 1 {
		switch args[i] {
		case "-namespace":
			c.namespace = args[i+1]
		case "-id":
			c.id = args[i+1]
		case "-bundle":
			c.bundle = args[i+1]
		}
	}
	return c, c.namespace != "" && c.id != "" && c.bundle != ""
}
