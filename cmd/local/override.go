package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Override changes how one host's process is started from its next start on: with another build of mgr (a mixed quorum), with
// more environment, under another program (prlimit, strace). It is a file of the cluster's directory, read at each start.
type Override struct {
	Binary string   `json:"binary,omitempty"` // in place of the mgr that `mgr up` was run with
	Env    []string `json:"env,omitempty"`    // NAME=value, added to the supervisor's own
	Under  []string `json:"under,omitempty"`  // a command line that gets the host's as its last arguments and becomes it (exec)
	Args   []string `json:"args,omitempty"`   // appended to the host's own
}

func overridePath(dir, host string) string { return filepath.Join(dir, host+".override.json") }

// Save writes the override of a host of the cluster in dir; an empty one removes it.
func (o Override) Save(dir, host string) error {
	if o.Binary == "" && len(o.Env)+len(o.Under)+len(o.Args) == 0 {
		if err := os.Remove(overridePath(dir, host)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(overridePath(dir, host), b, 0o600)
}

// LoadOverride reads the override of a host of the cluster in dir; without a file it is empty.
func LoadOverride(dir, host string) (Override, error) {
	var o Override
	b, err := os.ReadFile(overridePath(dir, host))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return o, fmt.Errorf("read how %s is started: %w", host, err)
	}
	return o, nil
}
