package pki

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// writes is a connection that notes its writes.
type writes struct {
	net.Conn
	all []string
	err error
}

func (w *writes) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.all = append(w.all, string(b))
	return len(b), nil
}
func (w *writes) Close() error { return nil }

func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := &writes{}
		c := &gathering{Conn: under}
		ctx := withConn(t.Context(), c)
		write := func(text string) error {
			n, err := io.WriteString(c, text)
			if err == nil && n != len(text) {
				t.Errorf("wrote %d of %q", n, text)
			}
			return err
		}
		expect := func(want string) {
			t.Helper()
			if got := strings.Join(under.all, "|"); got != want {
				t.Errorf("written %q, want %q", got, want)
			}
		}
		write("a")
		write("b")
		expect("a|b")
		Gather(ctx)
		write("c")
		Gather(ctx)
		write("d")
		expect("a|b")
		synctest.Wait()
		time.Sleep(gatherFor)
		synctest.Wait()
		expect("a|b|cd")
		write("e")
		expect("a|b|cd|e")

		big := strings.Repeat("x", gatherMost)
		Gather(ctx)
		write(big)
		expect("a|b|cd|e|" + big)
		write("f")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		expect("a|b|cd|e|" + big + "|f")
		time.Sleep(gatherFor)
		synctest.Wait()

		under.err = errors.New("gone")
		Gather(ctx)
		if err := write("lost"); err != nil {
			t.Errorf("a held write: %v", err)
		}
		time.Sleep(gatherFor)
		synctest.Wait()
		if err := write("late"); !errors.Is(err, under.err) {
			t.Errorf("the write after a failed one: %v", err)
		}
		Gather(context.Background())
	})
}
