package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// maxLogLine is where a line of output is cut into partial entries, in bytes, as CRI runtimes do it.
const maxLogLine = 16 << 10

// logWriter records a container's output in the CRI format, one entry for each line:
//
//	2026-11-23T03:10:42.123456789Z stdout F the line
//
// F is a full line or the last part of one, P a part that is followed by another. When the file grows beyond its limit it is
// renamed to <path>.<time> and a new one begun; of these the newest are kept.
type logWriter struct {
	path  string
	limit int64
	files int

	mu   sync.Mutex
	file *os.File
	size int64
	buf  []byte
}

func openLogWriter(path string, limit int64, files int) (*logWriter, error) {
	w := &logWriter{path: path, limit: limit, files: files}
	if path == "" {
		return w, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the log's directory: %w", err)
	}
	return w, w.open()
}

func (w *logWriter) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open the container's log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open the container's log: %w", err), f.Close())
	}
	w.file, w.size = f, info.Size()
	return nil
}

// write appends the entries of complete and partial lines. It takes whole entries to the file in one write each time, so
// a reader never sees half a line of ours. A file is over the limit by at most one entry.
func (w *logWriter) write(stream string, lines []logLine) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = w.buf[:0]
	now := time.Now().UTC()
	for _, l := range lines {
		if w.size+int64(len(w.buf)) >= w.limit {
			if err := w.flush(); err != nil {
				return err
			}
		}
		w.buf = now.AppendFormat(w.buf, time.RFC3339Nano)
		w.buf = append(w.buf, ' ')
		w.buf = append(w.buf, stream...)
		if l.partial {
			w.buf = append(w.buf, " P "...)
		} else {
			w.buf = append(w.buf, " F "...)
		}
		w.buf = append(w.buf, l.text...)
		w.buf = append(w.buf, '\n')
	}
	return w.flush()
}

// flush writes what is in buf, and begins a new file when this one has reached the limit.
func (w *logWriter) flush() error {
	if w.file == nil {
		return nil
	}
	n, err := w.file.Write(w.buf)
	w.buf = w.buf[:0]
	w.size += int64(n)
	if err != nil {
		return fmt.Errorf("write the container's log: %w", err)
	}
	if w.size >= w.limit {
		return w.rotate(time.Now().UTC())
	}
	return nil
}

func (w *logWriter) rotate(now time.Time) error {
	if w.files > 1 {
		if err := os.Rename(w.path, w.path+"."+now.Format("20060102-150405.000000000")); err != nil {
			return fmt.Errorf("rotate the container's log: %w", err)
		}
	} else if err := os.Remove(w.path); err != nil {
		return fmt.Errorf("rotate the container's log: %w", err)
	}
	err := w.file.Close()
	w.file = nil
	if err := errors.Join(err, w.open()); err != nil {
		return err
	}
	old, err := filepath.Glob(w.path + ".[0-9]*")
	if err != nil {
		return fmt.Errorf("find old logs: %w", err)
	}
	slices.Sort(old)
	for len(old) > w.files-1 {
		if err := os.Remove(old[0]); err != nil {
			return fmt.Errorf("remove an old log: %w", err)
		}
		old = old[1:]
	}
	return nil
}

func (w *logWriter) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// logLine is one entry: a line without its newline, or a part of one.
type logLine struct {
	text    []byte
	partial bool
}

// lineCutter cuts a stream of bytes into lines. What it returns is valid until the next call.
type lineCutter struct {
	rest  []byte // the beginning of a line whose end has not come yet
	lines []logLine
}

func (c *lineCutter) cut(p []byte) []logLine {
	c.lines = c.lines[:0]
	data := p
	if len(c.rest) > 0 {
		data = append(c.rest, p...)
	}
	for {
		i := bytes.IndexByte(data, '\n')
		switch {
		case i < 0 && len(data) < maxLogLine:
			c.rest = append([]byte(nil), data...)
			return c.lines
		case i < 0 || i > maxLogLine:
			c.lines = append(c.lines, logLine{text: data[:maxLogLine], partial: true})
			data = data[maxLogLine:]
		default:
			c.lines = append(c.lines, logLine{text: data[:i]})
			data = data[i+1:]
		}
	}
}

// end returns what is left when the stream has ended without a newline.
func (c *lineCutter) end() []logLine {
	if len(c.rest) == 0 {
		return nil
	}
	last := []logLine{{text: c.rest, partial: true}}
	c.rest = nil
	return last
}
