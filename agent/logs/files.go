package logs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// retries is how often a file may be rotated away under a reader's hand before that is an error.
const retries = 10

// Rotated lists the older files of a log, oldest first.
func Rotated(path string) []string {
	all, err := filepath.Glob(path + ".[0-9]*")
	if err != nil {
		return nil
	}
	slices.Sort(all)
	return all
}

// place is one file of a log, opened.
type place struct {
	path string // of the log
	f    *os.File
	// floor is the name of the newest rotated file that is not newer than f: f itself, or the one before the current file.
	floor string
}

// open opens one of the log's files, or for "" the current one, if that still comes after floor. It fails with ErrNotExist if that is
// not so or the file has been renamed or removed meanwhile.
func open(path, rotated, floor string) (*place, error) {
	if rotated != "" {
		f, err := os.Open(rotated)
		return &place{path, f, rotated}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if last(Rotated(path)) != floor { // it may be the one after the next
		return nil, errors.Join(os.ErrNotExist, f.Close())
	}
	return &place{path, f, floor}, nil
}

func last(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[len(names)-1]
}

// next opens the file after this one; nil if there is none yet.
func (p *place) next() (*place, error) {
	mine, err := p.f.Stat()
	if err != nil {
		return nil, fmt.Errorf("following %q: %w", p.path, err)
	}
	for range retries {
		current, err := os.Stat(p.path)
		if err == nil && os.SameFile(mine, current) {
			return nil, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("following %q: %w", p.path, err)
		}
		there := err == nil
		rotated := Rotated(p.path)
		if i := slices.IndexFunc(rotated, func(name string) bool {
			info, err := os.Stat(name)
			return err == nil && os.SameFile(mine, info)
		}); i >= 0 {
			p.floor = rotated[i]
		}
		// If it is not there any more, the next is the oldest that is newer than it.
		newer := slices.DeleteFunc(slices.Clone(rotated), func(name string) bool { return name <= p.floor })
		if len(newer) == 0 && !there {
			return nil, nil // between renaming and making the new one
		}
		n, err := open(p.path, first(newer), last(rotated))
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return n, err
		}
	}
	return nil, fmt.Errorf("following %q: it is rotated faster than it can be read", p.path)
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// begin opens the file in which what is asked for begins, at that place.
func (r *reader) begin(path string) (*place, error) {
	var err error
	for range retries {
		var p *place
		if r.o.Tail != nil {
			p, err = r.tail(path, *r.o.Tail)
		} else {
			rotated := Rotated(path)
			p, err = open(path, first(r.since(slices.Clone(rotated))), last(rotated))
		}
		if err == nil {
			return p, nil
		}
		if _, missing := os.Stat(path); !errors.Is(err, os.ErrNotExist) || missing != nil {
			break
		}
	}
	return nil, fmt.Errorf("failed to open log file %q: %w", path, err)
}

// since leaves out files that nobody has written to since then.
func (r *reader) since(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		info, err := os.Stat(name)
		return err != nil || info.ModTime().Before(r.o.Since)
	})
}

// tail opens the file in which the last n lines begin.
func (r *reader) tail(path string, n int64) (*place, error) {
	rotated := Rotated(path)
	p, err := open(path, "", last(rotated))
	if err != nil {
		return nil, err
	}
	for {
		missing, err := tailOffset(p.f, n)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("finding the tail: %w", err), p.f.Close())
		}
		if missing <= 0 || len(rotated) == 0 {
			return p, nil
		}
		older, err := open(path, last(rotated), "")
		if errors.Is(err, os.ErrNotExist) { // the oldest has just gone: the tail is shorter then
			_, err := p.f.Seek(0, io.SeekStart)
			return p, err
		}
		if err = errors.Join(err, p.f.Close()); err != nil {
			return nil, err
		}
		p, n, rotated = older, missing, rotated[:len(rotated)-1]
	}
}
