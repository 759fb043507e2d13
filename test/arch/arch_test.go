// Package arch holds the rules of the structure as tests: who may import whom, what the state machine may not touch, and
// how long a function or file may get. Each rule gives its reason when it fails.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// order lists the top-level folders: a folder imports only those before it. Leaves that belong to the host's side stand
// after the masters' folders but may not use them (see bans).
var order = []string{"failpoint", "pki", "tunnel", "resource", "fsm", "backup", "raftnode", "scheduler", "controller", "api", "agent", "netproxy", "demo", "cmd", "test"}

// bans are imports that order alone would allow.
var bans = []struct{ folder, banned, reason string }{
	{"resource", "mgr/", "the kind table is data and pure functions; it knows no other folder"},
	{"fsm", "time", "the FSM is a function: stamp times before the proposal"},
	{"fsm", "math/rand", "the FSM is a function: draw names before the proposal"},
	{"fsm", "os", "the FSM is a function: no files"},
	{"fsm", "net", "the FSM is a function: no network"},
	{"fsm", "log", "the FSM is a function: no logging"},
	{"fsm", "github.com/hashicorp/raft", "the FSM knows no Raft: raftnode adapts it"},
	{"backup", "k8s.io/", "a snapshot file holds bytes: it knows no kinds"},
	{"raftnode", "k8s.io/", "the quorum replicates bytes: it knows no kinds"},
	{"scheduler", "mgr/fsm", "the scheduler is an API client: it sees informers and binds through a function"},
	{"scheduler", "net/http", "the scheduler knows no HTTP"},
	{"controller", "mgr/fsm", "controllers are API clients"},
	{"controller", "mgr/raftnode", "controllers are API clients; leadership is a context"},
	{"controller", "mgr/scheduler", "controllers and scheduler meet in the API only"},
	{"api", "github.com/hashicorp/raft", "the API sees the quorum through api.Quorum"},
	{"api", "mgr/raftnode", "the API sees the quorum through api.Quorum"},
	{"api", "mgr/scheduler", "the API asks an Explainer"},
	{"api", "mgr/controller", "controllers are clients of the API, not parts"},
	{"agent", "mgr/fsm", "an agent is an API client like any other"},
	{"agent", "mgr/raftnode", "an agent is an API client like any other"},
	{"agent", "mgr/api", "an agent is an API client like any other"},
	{"agent", "mgr/controller", "an agent is an API client like any other"},
	{"agent", "mgr/scheduler", "an agent is an API client like any other"},
	{"netproxy", "mgr/fsm", "the proxy is an API client like any other"},
	{"netproxy", "mgr/api", "the proxy is an API client like any other"},
	{"netproxy", "mgr/controller", "the proxy is an API client like any other"},
	{"netproxy", "mgr/scheduler", "the proxy is an API client like any other"},
	{"", "k8s.io/kubernetes", "the product does not link Kubernetes itself; only test/oracle and test/conformance may"},
	{"", "go.etcd.io/etcd", "that is the point"},
}

// leaves may be imported against the order, because they import nothing of ours.
var leaves = []string{"mgr/netproxy/nsenter"}

// modules have a go.mod of their own, so what they require does not reach the product.
var modules = []string{"test/conformance", "test/oracle"}

const (
	maxFile = 500
	maxFunc = 70
)

type source struct {
	path   string // slash-separated, from the module's root
	folder string // top-level folder
	test   bool
	lines  int
	fset   *token.FileSet
	file   *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && rel != "." || rel == "bin" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(rel, ".go") {
			return nil
		}
		s := source{path: rel, fset: token.NewFileSet(), test: strings.HasSuffix(rel, "_test.go")}
		s.folder, _, _ = strings.Cut(rel, "/")
		s.file, err = parser.ParseFile(s.fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		s.lines = s.fset.File(s.file.Pos()).LineCount()
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found only %d Go files: is the test run from its folder?", len(all))
	}
	return all
}

func (s source) imports(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// within says whether import path p is banned or one of its sub-packages.
func within(p, banned string) bool {
	return p == banned || strings.HasPrefix(p, strings.TrimSuffix(banned, "/")+"/")
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, p := range s.imports(t) {
			if slices.Contains(leaves, p) || within(p, "k8s.io/kubernetes") && slices.Contains(modules, path.Dir(s.path)) {
				continue
			}
			for _, b := range bans {
				own := b.folder != "" && within(p, "mgr/"+b.folder)
				if (b.folder == "" || s.folder == b.folder) && within(p, b.banned) && !own {
					t.Errorf("%s imports %s: %s", s.path, p, b.reason)
				}
			}
			if rest, ours := strings.CutPrefix(p, "mgr/"); ours {
				folder, _, _ := strings.Cut(rest, "/")
				if slices.Index(order, folder) > slices.Index(order, s.folder) {
					t.Errorf("%s imports %s: imports go up the list %v only", s.path, p, order)
				}
			}
		}
	}
}

func TestEveryFolderIsOnTheMap(t *testing.T) {
	for _, s := range sources(t) {
		if !slices.Contains(order, s.folder) {
			t.Errorf("%s: the folder %q is not on the map: put it into order, or its code where it belongs", s.path, s.folder)
		}
	}
}

func TestSize(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(filepath.Base(s.path), "zz_generated") {
			continue
		}
		if s.lines > maxFile {
			t.Errorf("%s has %d lines, more than %d: split it by what it is about", s.path, s.lines, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFunc {
				t.Errorf("%s: %s has %d lines, more than %d: a function fits a screen", s.path, f.Name.Name, n, maxFunc)
			}
		}
	}
}

func TestTestsDoNotSleep(t *testing.T) {
	all := sources(t)
	virtual := map[string]bool{} // folders whose tests live in virtual time, where a Sleep costs nothing and proves something
	for _, s := range all {
		if s.test && usesSynctest(s.file) {
			virtual[filepath.Dir(s.path)] = true
		}
	}
	for _, s := range all {
		if !s.test || virtual[filepath.Dir(s.path)] {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, _ := sel.X.(*ast.Ident)
			at := s.fset.Position(call.Pos())
			if x != nil && x.Name == "time" && sel.Sel.Name == "Sleep" {
				t.Errorf("%s:%d sleeps: wait for a condition, or live in testing/synctest", s.path, at.Line)
			}
			return true
		})
	}
}

func usesSynctest(f *ast.File) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
}
