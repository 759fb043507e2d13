//go:build ignore

// Generate writes tags.txt: what comments in k8s.io/api say about types and fields and reflection cannot see. `make generate`
// runs it after an upgrade of k8s.io/api.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// wanted are the tags that OpenAPI documents carry.
var wanted = []string{"optional", "required", "listType", "listMapKey", "mapType", "structType", "default"}

func main() {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Dir}}", "k8s.io/api/...",
		"k8s.io/apimachinery/pkg/apis/meta/v1", "k8s.io/apimachinery/pkg/runtime").Output()
	if err != nil {
		log.Fatal("list packages: ", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		lines = append(lines, packageTags(path, dir)...)
	}
	slices.Sort(lines)
	var b bytes.Buffer
	for _, l := range slices.Compact(lines) {
		fmt.Fprintln(&b, l)
	}
	if err := os.WriteFile("tags.txt", b.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}

func packageTags(path, dir string) []string {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		log.Fatal(err)
	}
	var lines []string
	consts := map[string]string{}
	for _, f := range files {
		if base := filepath.Base(f); strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "zz_") || strings.HasPrefix(base, "generated") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments)
		if err != nil {
			log.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if ok && g.Tok == token.CONST {
				collect(g, consts)
			}
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, s := range g.Specs {
				t := s.(*ast.TypeSpec)
				doc := t.Doc
				if doc == nil {
					doc = g.Doc
				}
				lines = append(lines, typeTags(path+"."+t.Name.Name, doc, t)...)
			}
		}
	}
	for i, l := range lines {
		before, ref, found := strings.Cut(l, "default=ref(")
		if name, after, _ := strings.Cut(ref, ")"); found {
			lines[i] = before + "default=" + consts[name] + after
		}
	}
	return lines
}

// collect notes the values of constants, which defaults refer to.
func collect(g *ast.GenDecl, consts map[string]string) {
	for _, s := range g.Specs {
		v := s.(*ast.ValueSpec)
		for i, name := range v.Names {
			if i < len(v.Values) {
				if lit, ok := v.Values[i].(*ast.BasicLit); ok {
					consts[name.Name] = lit.Value
				}
			}
		}
	}
}

func typeTags(name string, doc *ast.CommentGroup, t *ast.TypeSpec) []string {
	var lines []string
	if tags := find(doc); tags != "" {
		lines = append(lines, name+tags)
	}
	s, ok := t.Type.(*ast.StructType)
	if !ok {
		return lines
	}
	for _, f := range s.Fields.List {
		if f.Tag == nil {
			continue
		}
		field, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
		if tags := find(f.Doc); field != "" && field != "-" && tags != "" {
			lines = append(lines, name+"."+field+tags)
		}
	}
	return lines
}

// find returns the wanted tags of a comment, each with a space before it.
func find(doc *ast.CommentGroup) string {
	if doc == nil {
		return ""
	}
	tags := ""
	for _, c := range doc.List {
		text, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(c.Text, "//")), "+")
		if !ok {
			continue
		}
		key, value, has := strings.Cut(strings.TrimSpace(text), "=")
		if !slices.Contains(wanted, key) {
			continue
		}
		tags += " " + key
		if has {
			tags += "=" + strings.ReplaceAll(strings.TrimSpace(value), " ", "")
		}
	}
	return tags
}
