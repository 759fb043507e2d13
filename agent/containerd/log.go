package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxLogLine is where a line of output is cut into partial entries, in bytes, as CRI runtimes do it.
const maxLogLine = 16 << 10

// rotatedTime is the form of the time in the name of a rotated log.
const rotatedTime = "20060102-150405.000000000"

// logLook is how often, at most, a writer looks whether its file is still the one at its path.
const logLook = time.Second

// logWriter records a container's output in the CRI format, one entry for each line:
//
//	2026-11-23T03:10:42.123456789Z stdout F the line
//
// F is a full line or the last part of one, P a part that is followed by another. When the file grows beyond its limit it is
// renamed to <path>.<time> and a new one begun; of these the newest are kept. A file that somebody removes is made anew. What a full
// disk does not take stays in the container's pipe while there is room in it; then it is dropped, and counted, as what a broken
// disk does not take: a container that waited for its log would hang with all that depends on it.
type logWriter struct {
	path   string // "": nothing is recorded
	limit  int64
	files  int
	logger *slog.Logger

	mu      sync.Mutex
	file    *os.File
	size    int64
	buf     []byte
	looked  time.Time
	dropped int // entries since the last that was written
}

func openLogWriter(path string, limit int64, files int, logger *slog.Logger) (*logWriter, error) {
	w := &logWriter{path: path, limit: limit, files: files, logger: logger}
	if path == "" {
		return w, nil
	}
	return w, w.open()
}

// open opens the file to append to it. The end of an entry that an agent did not live to write is cut off: it is still in the pipe.
func (w *logWriter) open() error {
	if err := os.MkdirAll(filepath.Dir(w.path), 0o755); err != nil {
		return fmt.Errorf("make the log's directory: %w", err)
	}
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return fmt.Errorf("open the container's log: %w", err)
	}
	size, err := endOfEntries(f)
	if err != nil {
		return errors.Join(fmt.Errorf("open the container's log: %w", err), f.Close())
	}
	w.file, w.size, w.looked = f, size, time.Now()
	return nil
}

// endOfEntries cuts f off behind its last newline, if that is near, and returns its size.
func endOfEntries(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	size := info.Size()
	from := max(0, size-2*maxLogLine)
	tail := make([]byte, size-from)
	if _, err := f.ReadAt(tail, from); err != nil {
		return size, err
	}
	end := from + int64(bytes.LastIndexByte(tail, '\n')) + 1
	if end == size || end == from && from > 0 { // no entry is that long: it is not of our writing
		return size, nil
	}
	return end, f.Truncate(end)
}

// write appends entries. They go to the file whole, so a reader never sees half a line of ours. A file is over the limit by at most
// one entry. false: the disk is full and nothing was written, and the caller, which said that it is patient, shall come again.
func (w *logWriter) write(stream string, lines []logLine, patient bool) bool {
	if w.path == "" || len(lines) == 0 {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	err := w.ready(now)
	waiting := 0 // entries in buf
	failed := func(entries, written int, err error) bool {
		if patient && written == 0 && errors.Is(err, syscall.ENOSPC) {
			w.buf = w.buf[:0]
			return false
		}
		w.drop(entries, err)
		return true
	}
	for i, l := range lines {
		if err == nil && w.size+int64(len(w.buf)) >= w.limit {
			if err = w.flush(&waiting); err == nil {
				err = w.rotate(now.UTC())
			}
		}
		if err != nil {
			return failed(waiting+len(lines)-i, i-waiting, err)
		}
		w.buf = now.UTC().AppendFormat(w.buf, time.RFC3339Nano)
		w.buf = append(w.buf, ' ')
		w.buf = append(w.buf, stream...)
		if l.partial {
			w.buf = append(w.buf, " P "...)
		} else {
			w.buf = append(w.buf, " F "...)
		}
		w.buf = append(w.buf, l.text...)
		w.buf = append(w.buf, '\n')
		waiting++
	}
	if err := w.flush(&waiting); err != nil {
		return failed(waiting, len(lines)-waiting, err)
	}
	return true
}

// drop counts entries that are lost, and says so once.
func (w *logWriter) drop(entries int, err error) {
	w.buf = w.buf[:0]
	if w.dropped == 0 {
		w.logger.Error("output of a container is lost: its log cannot be written", "err", err)
	}
	w.dropped += entries
}

// ready makes sure that there is a file, and now and then that it is the one at the path: somebody may have removed, moved or
// emptied it.
func (w *logWriter) ready(now time.Time) error {
	if w.file != nil && now.Sub(w.looked).Abs() < logLook {
		return nil
	}
	if w.file != nil {
		w.looked = now
		there, err := os.Stat(w.path)
		mine, err2 := w.file.Stat()
		if err == nil && err2 == nil && os.SameFile(there, mine) {
			w.size = mine.Size()
			return nil
		}
		_ = w.file.Close() // it is not ours any more
		w.file = nil
	}
	return w.open()
}

// flush writes what is in buf, all or nothing.
func (w *logWriter) flush(waiting *int) error {
	if len(w.buf) == 0 {
		return nil
	}
	n, err := w.file.Write(w.buf)
	w.buf = w.buf[:0]
	if err != nil {
		if info, statErr := w.file.Stat(); n > 0 && statErr == nil {
			err = errors.Join(err, w.file.Truncate(max(0, info.Size()-int64(n))))
		}
		return fmt.Errorf("write the container's log: %w", err)
	}
	w.size += int64(n)
	*waiting = 0
	if w.dropped > 0 {
		w.logger.Warn("the log of a container is written again", "lostEntries", w.dropped)
		w.dropped = 0
	}
	return nil
}

// rotate gives the file its dated name, makes a new one, and removes the oldest.
func (w *logWriter) rotate(now time.Time) error {
	old, err := filepath.Glob(w.path + ".[0-9]*")
	if err != nil {
		return fmt.Errorf("find old logs: %w", err)
	}
	slices.Sort(old)
	if w.files > 1 {
		name := w.rotatedName(now, old)
		err = os.Rename(w.path, name)
		old = append(old, name)
	} else {
		err = os.Remove(w.path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rotate the container's log: %w", err)
	}
	err = w.file.Close()
	w.file = nil
	if err := errors.Join(err, w.open()); err != nil {
		return err
	}
	for len(old) > w.files-1 {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove an old log: %w", err)
		}
		old = old[1:]
	}
	return nil
}

// rotatedName is later than those of all older files, even when the clock has gone back: readers go by the names.
func (w *logWriter) rotatedName(now time.Time, old []string) string {
	name := w.path + "." + now.Format(rotatedTime)
	if len(old) == 0 || name > old[len(old)-1] {
		return name
	}
	last := old[len(old)-1]
	at, err := time.Parse(rotatedTime, strings.TrimPrefix(last, w.path+"."))
	if err != nil {
		return last + "0"
	}
	return w.path + "." + at.Add(time.Nanosecond).Format(rotatedTime)
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

// cutLines cuts data into entries and appends them to lines; used is how much of data they are. What is left is the beginning of a
// line; with last it is an entry, too. The entries point into data.
func cutLines(lines []logLine, data []byte, last bool) (_ []logLine, used int) {
	for {
		rest := data[used:]
		i := bytes.IndexByte(rest, '\n')
		switch {
		case i >= 0 && i <= maxLogLine:
			lines = append(lines, logLine{text: rest[:i]})
			used += i + 1
		case len(rest) >= maxLogLine:
			lines = append(lines, logLine{text: rest[:maxLogLine], partial: true})
			used += maxLogLine
		case last && len(rest) > 0:
			return append(lines, logLine{text: rest, partial: true}), len(data)
		default:
			return lines, used
		}
	}
}
