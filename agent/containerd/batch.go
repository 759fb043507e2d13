package containerd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// batch is a note of how many bytes of an output pipe are being logged. Logging and taking from the pipe are two steps; an agent that
// is killed between them leaves what is logged in the pipe, too. With the note, its successor knows where to look for that.
type batch struct {
	file *os.File
	left int // by an agent that was killed in the middle; 0: none
}

func openBatch(path string) (*batch, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	b := &batch{file: f}
	var note [8]byte
	if n, _ := f.ReadAt(note[:], 0); n == len(note) {
		b.left = int(min(binary.LittleEndian.Uint64(note[:]), pipeSize))
	}
	return b, nil
}

// set notes that n bytes are being logged, 0 that they are taken. It costs a write into memory; a note that fails costs, if the agent
// is killed at that very moment, lines that come twice.
func (b *batch) set(n int) {
	var note [8]byte
	binary.LittleEndian.PutUint64(note[:], uint64(n))
	_, _ = b.file.WriteAt(note[:], 0)
}

// logged tells whether what the note speaks of, the first bytes of data, is what the stream's log ends with.
func (b *batch) logged(w *logWriter, stream string, data []byte) bool {
	if b.left == 0 || b.left > len(data) {
		return false
	}
	said, err := w.lastWords(stream, b.left)
	return err == nil && bytes.HasSuffix(said, data[:b.left])
}

// lastWords returns at least the last n bytes that a stream has said, if there are so many, from the newest two files of its log.
func (w *logWriter) lastWords(stream string, n int) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old, err := filepath.Glob(w.path + ".[0-9]*")
	if err != nil {
		return nil, err
	}
	slices.Sort(old)
	var said []byte
	for _, path := range append(old[max(0, len(old)-1):], w.path) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the end of a log: %w", err)
		}
		// An entry is longer than what it says by less than 64 bytes, and what it says may be a byte long.
		text = text[max(0, len(text)-64*n-2*maxLogLine):]
		for line := range bytes.Lines(text) {
			fields := bytes.SplitN(line, []byte(" "), 4)
			if len(fields) == 4 && string(fields[1]) == stream {
				words := fields[3]
				if string(fields[2]) == "P" {
					words = bytes.TrimSuffix(words, []byte("\n"))
				}
				said = append(said, words...)
			}
		}
	}
	return said, nil
}
