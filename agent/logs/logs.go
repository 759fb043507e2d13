// Package logs reads container logs in the CRI format ("<RFC 3339 nanoseconds> <stdout|stderr> <P|F> <text>"), as the
// runtime writes them, with the filters of kubectl logs. The writer rotates: it renames the file to <path>.<time> and begins a new one
// at the same path; a reader sees what is left of all of them as one log, and follows from each to the next (files.go).
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options filter what is shown.
type Options struct {
	Follow     bool
	Tail       *int64 // the last so many lines
	Since      time.Time
	Timestamps bool
	LimitBytes *int64
	// Stdout and Stderr choose the streams; none chosen means both.
	Stdout, Stderr bool
}

// Poll is how often a followed file is looked at; growth of a file has no cheaper signal that also survives rotation.
const Poll = 100 * time.Millisecond

// errLimit: LimitBytes have been written.
var errLimit = errors.New("limit reached")

// Read writes the log at path to w. With Follow it goes on until ctx is done or, when ended reports that the container
// has stopped, until everything has been read. flush, if not nil, is called whenever w has all there is for now.
func Read(ctx context.Context, path string, w io.Writer, o Options, ended func() bool, flush func()) error {
	r := &reader{out: w, o: o, remaining: -1}
	if o.LimitBytes != nil {
		r.remaining = *o.LimitBytes
	}
	err := r.read(ctx, path, ended, flush)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

type reader struct {
	out       io.Writer
	o         Options
	remaining int64 // bytes still to be written; -1: no limit
	partial   bool  // the last line printed has no end yet
}

func (r *reader) read(ctx context.Context, path string, ended func() bool, flush func()) error {
	c, err := r.begin(path)
	if err != nil {
		return err
	}
	defer func() { c.f.Close() }()
	in := &lineReader{r: c.f}
	for {
		// Asked before reading: what was written before the end is read after it.
		over := !r.o.Follow || ended != nil && ended()
		if err := r.drain(in); err != nil {
			return err
		}
		if flush != nil {
			flush()
		}
		next, err := c.next()
		if err != nil {
			return err
		}
		if next != nil {
			// The writer may have added to the old file between our last read and its renaming.
			err := r.drain(in)
			c.f.Close()
			c, in = next, &lineReader{r: next.f}
			if err != nil {
				return err
			}
			continue
		}
		if over {
			return r.rest(in)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(Poll):
		}
	}
}

func (r *reader) drain(in *lineReader) error {
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a log: %w", err)
		}
		if err := r.line(line); err != nil {
			return err
		}
	}
}

// rest prints a last line that the writer never ended.
func (r *reader) rest(in *lineReader) error {
	if len(in.pending) == 0 {
		return nil
	}
	return r.line(in.pending)
}

// line prints one record; text that is not in the format is left out.
func (r *reader) line(raw []byte) error {
	at, stream, full, text, ok := parse(raw)
	if !ok {
		return nil
	}
	if (r.o.Stdout || r.o.Stderr) && (stream == "stdout" && !r.o.Stdout || stream == "stderr" && !r.o.Stderr) {
		return nil
	}
	if !r.o.Since.IsZero() {
		when, err := time.Parse(time.RFC3339Nano, string(at))
		if err != nil || when.Before(r.o.Since) {
			return nil
		}
	}
	if r.o.Timestamps && !r.partial {
		if err := r.write(append(bytes.Clone(at), ' ')); err != nil {
			return err
		}
	}
	r.partial = !full
	if full {
		text = append(bytes.Clone(text), '\n')
	}
	return r.write(text)
}

func (r *reader) write(b []byte) error {
	if r.remaining >= 0 && int64(len(b)) >= r.remaining {
		b = b[:r.remaining]
		if _, err := r.out.Write(b); err != nil {
			return err
		}
		return errLimit
	}
	n, err := r.out.Write(b)
	if r.remaining >= 0 {
		r.remaining -= int64(n)
	}
	return err
}

func parse(line []byte) (at []byte, stream string, full bool, text []byte, ok bool) {
	at, rest, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !ok {
		return nil, "", false, nil, false
	}
	name, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return nil, "", false, nil, false
	}
	tag, text, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return nil, "", false, nil, false
	}
	tag, _, _ = bytes.Cut(tag, []byte(":"))
	return at, string(name), string(tag) == "F", text, true
}

// lineReader reads whole lines and keeps an unfinished one for the next try.
type lineReader struct {
	r       io.Reader
	in      *bufio.Reader
	pending []byte
}

func (l *lineReader) next() ([]byte, error) {
	if l.in == nil {
		l.in = bufio.NewReaderSize(l.r, 32<<10)
	}
	part, err := l.in.ReadBytes('\n')
	if err != nil {
		l.pending = append(l.pending, part...)
		return nil, err
	}
	if len(l.pending) > 0 {
		part = append(l.pending, part...)
		l.pending = nil
	}
	return part, nil
}

// tailOffset moves f to its last n lines and returns how many lines it lacks.
func tailOffset(f *os.File, n int64) (missing int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n <= 0 {
		return 0, err
	}
	const block = 32 << 10
	buf := make([]byte, block)
	found := int64(0)
	for from := end; from > 0; {
		size := min(from, block)
		from -= size
		if _, err := f.ReadAt(buf[:size], from); err != nil {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			// The newline that ends the file ends a line; it does not begin one.
			if buf[i] != '\n' || from+i == end-1 {
				continue
			}
			if found++; found == n {
				_, err = f.Seek(from+i+1, io.SeekStart)
				return 0, err
			}
		}
	}
	if end > 0 {
		found++
	}
	_, err = f.Seek(0, io.SeekStart)
	return n - found, err
}

// LastWords returns the end of a log, at most so many lines and bytes; "" if there is none.
func LastWords(path string, lines, size int64) string {
	var out bytes.Buffer
	if err := Read(context.Background(), path, &out, Options{Tail: &lines}, nil, nil); err != nil {
		return ""
	}
	b := out.Bytes()
	return string(bytes.ToValidUTF8(b[max(0, int64(len(b))-size):], nil))
}
