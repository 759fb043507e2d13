package cli

import (
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/kubectl/pkg/util/templates"
)

// kubectlWord finds the program's name in help texts, but not the annotation and field-manager names that contain it
// (kubectl.kubernetes.io/…, kubectl-create), which are part of the wire, nor addresses of documents.
var kubectlWord = regexp.MustCompile(`(^|[^\w./-])kubectl($|[^\w./-]|[.]($|\s))`)

func rewrite(s string) string {
	// Two passes, because neighbouring matches share the character between them.
	s = kubectlWord.ReplaceAllString(s, "${1}mgr${2}")
	return kubectlWord.ReplaceAllString(s, "${1}mgr${2}")
}

// rename puts our program's name into every text of the embedded commands.
func rename(c *cobra.Command) {
	c.Use, c.Short, c.Long, c.Example = rewrite(c.Use), rewrite(c.Short), rewrite(c.Long), rewrite(c.Example)
	fix := func(f *pflag.Flag) { f.Usage = rewrite(f.Usage) }
	c.LocalFlags().VisitAll(fix)
	c.PersistentFlags().VisitAll(fix)
	for _, sub := range c.Commands() {
		rename(sub)
	}
}

// ownCommands are those that kubectl does not have: what runs a cluster first.
func ownCommands(c *env) templates.CommandGroups {
	return templates.CommandGroups{
		{Message: "Run a cluster:", Commands: []*cobra.Command{
			newUp(c), newDown(c), newHost(c), newServer(c), newAgent(c), newToken(c)}},
		{Message: "Look after it:", Commands: []*cobra.Command{
			newMembers(c), newSnapshot(c), newRecover(c), newWhy(c), newHistory(c), newUndelete(c), newImage(c), newNode(c), newKubeconfig(c)}},
	}
}

// groupCommands adds our own commands and orders the root's help: ours first, then kubectl's groups.
func groupCommands(root *cobra.Command, c *env, own templates.CommandGroups) {
	byName := map[string]*cobra.Command{}
	for _, sub := range root.Commands() {
		byName[sub.Name()] = sub
	}
	extendVersion(byName["version"], c)
	own.Add(root)
	root.AddCommand(newSupervisor(c))
	groups := own
	for _, g := range kubectlGroups {
		group := templates.CommandGroup{Message: g.title}
		for _, name := range g.names {
			if sub := byName[name]; sub != nil {
				group.Commands = append(group.Commands, sub)
			}
		}
		groups = append(groups, group)
	}
	hidden := []string{"options", "alpha"}
	for _, name := range notServed {
		if sub, _, err := root.Find(strings.Fields(name)); err == nil && sub.HasParent() {
			sub.Parent().RemoveCommand(sub)
		}
	}
	templates.ActsAsRootCommand(root, hidden, groups...)
}

// notServed are kubectl commands whose API is not served yet; what does not work is not shown.
var notServed = []string{"autoscale"}

var kubectlGroups = []struct {
	title string
	names []string
}{
	{"Workloads:", []string{"create", "apply", "get", "describe", "delete", "edit", "run", "expose", "set", "scale", "rollout"}},
	{"Look inside:", []string{"logs", "exec", "attach", "port-forward", "cp", "debug", "events", "proxy", "explain", "wait"}},
	{"Nodes:", []string{"cordon", "uncordon", "drain", "taint"}},
	{"Advanced:", []string{"diff", "patch", "replace", "label", "annotate", "kustomize"}},
	{"Settings:", []string{"config", "completion", "plugin", "kuberc", "version", "api-resources", "api-versions", "cluster-info", "auth", "certificate"}},
}
