package local

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// Progress shows long work step by step: on a terminal one line for each step with a turning mark, the state it waits for
// and the seconds so far; elsewhere one plain line when a step is done.
type Progress struct {
	w     io.Writer
	tty   bool
	width int
}

// NewProgress writes to w; colours and movement only when w is a terminal.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, width: 100}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.tty = true
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			p.width = width
		}
	}
	return p
}

var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// Step runs f under a title. f may tell through detail what it is waiting for.
func (p *Progress) Step(title string, f func(detail func(string)) error) error {
	var mu sync.Mutex
	note := ""
	began := time.Now()
	line := func(mark string) {
		mu.Lock()
		defer mu.Unlock()
		text := fmt.Sprintf("%s %s", title, dim(note))
		fmt.Fprintf(p.w, "\r\x1b[K%s %s %s", mark, clip(text, p.width-12+len(dim(""))), dim(seconds(began)))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		if !p.tty {
			return
		}
		tick := time.NewTicker(80 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			line("\x1b[36m" + frames[i%len(frames)] + "\x1b[0m")
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	err := f(func(s string) {
		mu.Lock()
		defer mu.Unlock()
		note = s
	})
	close(stop)
	<-stopped
	p.done(title, began, err)
	return err
}

func (p *Progress) done(title string, began time.Time, err error) {
	mark := "ok  "
	if err != nil {
		mark = "FAIL"
	}
	if !p.tty {
		fmt.Fprintf(p.w, "%s %s (%s)\n", mark, title, seconds(began))
		return
	}
	mark = "\x1b[32m✔\x1b[0m"
	if err != nil {
		mark = "\x1b[31m✘\x1b[0m"
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s %s %s\n", mark, title, dim(seconds(began)))
}

func seconds(since time.Time) string { return fmt.Sprintf("%.1fs", time.Since(since).Seconds()) }

func dim(s string) string { return "\x1b[2m" + s + "\x1b[0m" }

// clip shortens s to n runes; escape sequences count, so it is only for lines that are overwritten at once.
func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n || n < 1 {
		return s
	}
	return string(r[:n-1]) + "…\x1b[0m"
}
