package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
)

const (
	idsPerPod  = 1 << 16
	mostRanges = 1<<16 - 2 // without the node's own users and that of -1
	rangeFile  = "userns.json"
)

// idRanges gives each pod with a user namespace of its own a range of the node's users that no other pod has. Which one is in a
// file of the pod's directory, and goes with that. The choice is random: agents that share a machine do not know of each other.
type idRanges struct {
	pods string // parent of the pods' directories

	mu    sync.Mutex
	byPod map[string]uint32 // UID to first user
	taken map[uint32]bool
}

// newIDRanges finds the ranges of the pods that are there.
func newIDRanges(pods string, log *slog.Logger) (*idRanges, error) {
	r := &idRanges{pods: pods, byPod: map[string]uint32{}, taken: map[uint32]bool{}}
	files, err := filepath.Glob(filepath.Join(pods, "*", rangeFile))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		var ids IDRange
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &ids)
		}
		if err != nil {
			log.Error("the users of a pod are not known", "file", path, "err", err)
			continue
		}
		r.byPod[filepath.Base(filepath.Dir(path))], r.taken[ids.First] = ids.First, true
	}
	return r, nil
}

// of is the pod's range; it has one from the first call on.
func (r *idRanges) of(uid string) (*IDRange, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.byPod[uid]; ok {
		return &IDRange{First: first, Count: idsPerPod}, nil
	}
	if len(r.taken) == mostRanges {
		return nil, errors.New("all users of the node are given to pods")
	}
	first := uint32(0)
	for first == 0 || r.taken[first] {
		first = (1 + rand.Uint32N(mostRanges)) * idsPerPod
	}
	ids := &IDRange{First: first, Count: idsPerPod}
	text, err := json.Marshal(ids)
	if err == nil {
		err = writeDurably(filepath.Join(r.pods, uid, rangeFile), text)
	}
	if err != nil {
		return nil, fmt.Errorf("writing down the pod's users: %w", err)
	}
	r.byPod[uid], r.taken[first] = first, true
	return ids, nil
}

// release gives a pod's range back; nothing of the pod may be left.
func (r *idRanges) release(uid string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(filepath.Join(r.pods, uid, rangeFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("giving back the pod's users: %w", err)
	}
	delete(r.taken, r.byPod[uid])
	delete(r.byPod, uid)
	return nil
}

// writeDurably makes a file that is whole, and on the disk, or not there.
func writeDurably(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
