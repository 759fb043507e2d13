package daemon

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"mgr/agent/containerd"
	"mgr/agent/embedded"
)

var configTemplate = template.Must(template.New("config").Parse(`# Written by mgr at every start.
version = 4
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}

[debug]
  level = "warn"

[plugins."io.containerd.server.v1.grpc"]
  address = {{printf "%q" .Address}}

[plugins."io.containerd.server.v1.ttrpc"]
  address = "{{.Address}}.ttrpc"

[plugins."io.containerd.shim.v1.manager"]
  socket_dir = {{printf "%q" .ShimSockets}}

# Many pods may be made at once: collect garbage after the rush, not during it.
[plugins."io.containerd.gc.v1.scheduler"]
  schedule_delay = "2s"
`))

// prepare makes the directories and the configuration file.
func prepare(l containerd.Layout) error {
	if err := containerd.KeepState(l); err != nil {
		return err
	}
	for _, d := range []string{l.Root(), l.State(), l.Bin(), l.Run, l.ShimSockets(), l.RuncRoot()} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("make containerd's directories: %w", err)
		}
	}
	var text strings.Builder
	if err := configTemplate.Execute(&text, l); err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	return replaceFile(l.Config(), []byte(text.String()), 0o600)
}

// unpackPrograms puts the embedded shim, and what stands between it and runc, on disk under names that contain their checksums, and
// returns their paths. Older ones stay: running pods may be using them. A binary without a shim falls back on containerd's, if the
// host has it; without the other the shim calls runc itself.
func unpackPrograms(l containerd.Layout) (shim, runc string, err error) {
	shimSum, err := embedded.Shim.Sum()
	if err != nil {
		if path, lookErr := exec.LookPath("containerd-shim-runc-v2"); lookErr == nil {
			return path, "", nil
		}
		return "", "", err
	}
	shim = filepath.Join(l.Bin(), "mgr-shim-"+hex.EncodeToString(shimSum))
	runcSum, err := embedded.Runc.Sum()
	if err != nil {
		return shim, "", unpack(embedded.Shim, shim)
	}
	// By its name it finds the shim.
	runc = filepath.Join(l.Bin(), "mgr-runc-"+hex.EncodeToString(runcSum)+"-"+hex.EncodeToString(shimSum))
	return shim, runc, errors.Join(unpack(embedded.Shim, shim), unpack(embedded.Runc, runc))
}

func unpack(p embedded.Program, path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	text, err := p.Executable()
	if err != nil {
		return err
	}
	return replaceFile(path, text, 0o755)
}

// replaceFile writes a file so that a reader, or a crash, sees the old one or the new one.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// openLog opens containerd's log for appending; one that has become too long starts anew and its predecessor is kept.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, fmt.Errorf("rotate containerd's log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open containerd's log: %w", err)
	}
	return f, nil
}

// tail returns the last lines of a log, for an error message.
func tail(path string) string {
	const size = 1 << 10
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	buf := make([]byte, size)
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	n, _ := f.ReadAt(buf, max(0, info.Size()-size))
	return strings.TrimSpace(string(buf[:n]))
}
