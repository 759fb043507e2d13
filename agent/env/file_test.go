package env

import (
	"fmt"
	"strings"
	"testing"
)

func TestInFile(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"A='1'\nB='2'", `"2" true <nil>`},
		{"# B='0'\n\n  B='2' # two\n", `"2" true <nil>`},
		{"A='1\n2'\nB='a\nb $X \\n'\n", `"a\nb $X \\n" true <nil>`},
		{"B='first'\nB='second'", `"first" true <nil>`},
		{"B= 'x'", `"" true <nil>`},
		{"A='1'\n", `"" false <nil>`},
		{"", `"" false <nil>`},
		{"A = '1'\nB='2'", `"" false line 1 is not of the form NAME='value'`},
		{"A='1'\nnonsense\nB='2'", `"" false line 2 is not of the form NAME='value'`},
		{"A='1\n'\nB=2", `"" false line 3: the value is not in single quotes`},
		{"B='2", `"" false line 1: the quote is not closed`},
		{"B='2' 3", `"" false line 1: something follows the value`},
	} {
		value, found, err := InFile(strings.NewReader(c.text), "B")
		if got := fmt.Sprintf("%q %v %v", value, found, err); got != c.want {
			t.Errorf("%q: %s, want %s", c.text, got, c.want)
		}
	}
}
