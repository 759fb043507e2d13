// Package env computes the environment, command and arguments of a container from its specification, as Kubernetes
// documents them: $(NAME) references, field and resource references, config maps, secrets and service variables.
package env

import "strings"

// Expand replaces $(NAME) by lookup(NAME). "$$" is an escaped "$"; a reference that lookup does not know, and a "$" that
// begins no reference, stay as they are.
func Expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if value, ok := lookup(name); ok {
				out.WriteString(value)
			} else {
				out.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

// ExpandAll expands every string of list.
func ExpandAll(list []string, lookup func(string) (string, bool)) []string {
	var out []string
	for _, s := range list {
		out = append(out, Expand(s, lookup))
	}
	return out
}
