package backup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
)

// WriteFile writes what fill writes to path, readable by its owner only, sealed if there are recipients. The file is there, whole and
// on disk, when WriteFile returns; when it fails, path is as it was.
func WriteFile(path string, recipients []age.Recipient, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	err = WriteTo(f, recipients, fill)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteTo writes what fill writes to w, sealed if there are recipients.
func WriteTo(w io.Writer, recipients []age.Recipient, fill func(io.Writer) error) error {
	if len(recipients) == 0 {
		return fill(w)
	}
	sealed, err := Seal(w, recipients)
	if err == nil {
		err = fill(sealed)
	}
	if err == nil {
		err = sealed.Close()
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
