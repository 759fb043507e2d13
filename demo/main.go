// Command demo is the program of the demo image: an HTTP server that says where it runs, so that one sees a Service spread
// requests, and a box of small tools under their usual names, so that probes, exec and a look around from inside a pod need
// no other image. It is one static file; the tools are links to it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const usage = `usage: demo COMMAND [ARGUMENT...]

  serve [ADDRESS]    HTTP server (default :8080): / who I am, /env, /healthz, /readyz (PUT /readyz?ready=false),
                     /exit?code=N, /echo
  fetch URL [N]      get a URL, N times, and print what comes back; fails on a status of 400 and more
  sleep SECONDS      or "infinity"
  echo WORD...       print words
  cat                copy standard input to standard output
  env                print the environment
  crash [CODE]       exit at once (default 1)
  true, false        exit 0, exit 1
`

// commands by name; each returns the exit code.
var commands = map[string]func(args []string) int{
	"serve": serve, "fetch": fetch, "sleep": sleep, "echo": echo, "cat": cat, "env": environ, "crash": crash,
	"true": func([]string) int { return 0 }, "false": func([]string) int { return 1 },
}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if commands[name] == nil { // not called by a tool's name
		name = "serve"
		if len(args) > 0 {
			name, args = args[0], args[1:]
		}
	}
	run := commands[name]
	if run == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	os.Exit(run(args))
}

func echo(args []string) int {
	fmt.Println(strings.Join(args, " "))
	return 0
}

func environ([]string) int {
	env := os.Environ()
	slices.Sort(env)
	fmt.Println(strings.Join(env, "\n"))
	return 0
}

// fail prints why a command did not do its work.
func fail(err error) int {
	fmt.Fprintln(os.Stderr, "demo:", err)
	return 1
}
