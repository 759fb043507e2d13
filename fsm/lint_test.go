package fsm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestPure keeps the contract of the package comment: what could make two peers differ is not imported at all, and no
// goroutine is started.
func TestPure(t *testing.T) {
	banned := []string{"time", "math/rand", "crypto/rand", "os", "net", "log", "runtime", "unsafe", "syscall", "mgr/", "k8s.io/",
		"github.com/hashicorp/"}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, file := range files {
		name := file.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			for _, b := range banned {
				if path == b || strings.HasPrefix(path, strings.TrimSuffix(b, "/")+"/") {
					t.Errorf("%s imports %s: the state machine must be a function of the log", set.Position(i.Pos()), path)
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s starts a goroutine: the state machine has none", set.Position(g.Pos()))
			}
			return true
		})
	}
}
