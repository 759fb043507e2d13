package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// stateFile is what a restarted manager must know.
const stateFile = "allocations.json"

type state struct {
	Resources []string // that plug-ins have offered
	Grants    []ownedGrant
}

type ownedGrant struct {
	owner
	grant
}

func cmpString(a, b string) int { return strings.Compare(a, b) }

// save writes the state down; mu is held. What is granted only for the moment is not in it.
func (m *Manager) save() error {
	var s state
	for name := range m.resources {
		s.Resources = append(s.Resources, name)
	}
	for o, g := range m.grants {
		if g.Answer != nil {
			s.Grants = append(s.Grants, ownedGrant{o, *g})
		}
	}
	slices.Sort(s.Resources)
	slices.SortFunc(s.Grants, func(a, b ownedGrant) int {
		return slices.Compare([]string{a.Pod, a.Container, a.Resource}, []string{b.Pod, b.Container, b.Resource})
	})
	text, err := json.Marshal(s)
	if err == nil {
		err = writeSynced(filepath.Join(m.cfg.Dir, stateFile), text)
	}
	if err != nil {
		return fmt.Errorf("write down whose the devices are: %w", err)
	}
	return nil
}

// load reads the state, or puts it aside if it is damaged. The resources are without devices until their plug-ins register again.
func (m *Manager) load() error {
	if err := os.MkdirAll(m.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("make the directory of device plug-ins: %w", err)
	}
	path := filepath.Join(m.cfg.Dir, stateFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s state
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		// A node without its pods is worse than one that may give a device twice.
		m.cfg.Log.Error("whose the devices are cannot be read; pods that run may have some that are given again", "file", path, "err", err)
		return os.Rename(path, path+".damaged")
	}
	for _, name := range s.Resources {
		m.resources[name] = &offer{gone: time.Now()}
	}
	for _, g := range s.Grants {
		m.grants[g.owner] = &g.grant
	}
	return nil
}

// writeSynced replaces a file, on the disk too, before it returns.
func writeSynced(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
