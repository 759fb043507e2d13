package main

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"mgr/agent/image"
)

// The busybox of the tests is built from its source, as Debian keeps it: the shell that Debian builds hides environment variables
// whose names are not names of shell variables from the programs that it starts, and the tests look for such.
const (
	busyboxSource = "http://deb.debian.org/debian/pool/main/b/busybox/busybox_1.37.0.orig.tar.bz2"
	busyboxSum    = "3311dff32e746499f4df0d5df04d7eb396382d7e108bb9250e7b519b837043a4"
)

// notBuilt are parts of busybox that today's kernel headers or plain processors have no use for.
var notBuilt = regexp.MustCompile(`(?m)^(CONFIG_(?:TC|SHA1_HWACCEL|SHA256_HWACCEL))=y$`)

// buildBusybox returns the program with its default parts, linked with this machine's libc.
func buildBusybox() ([]byte, error) {
	dir, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, err := download(busyboxSource, busyboxSum)
	if err == nil {
		err = unpackTar(bzip2.NewReader(bytes.NewReader(source)), dir)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", busyboxSource, err)
	}
	dir = filepath.Join(dir, "busybox-1.37.0")
	run := func(args ...string) error {
		cmd := exec.Command("make", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build busybox: make %v: %w\n%s", args, err, out[max(0, len(out)-2000):])
		}
		return nil
	}
	if err := run("defconfig"); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, ".config")
	text, err := os.ReadFile(config)
	if err == nil {
		err = os.WriteFile(config, notBuilt.ReplaceAll(text, []byte("# $1 is not set")), 0o644)
	}
	if err == nil {
		err = run("-j2", "busybox")
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "busybox"))
}

// busyboxLayer puts the program in the place of the one below, with links for the commands that only it has.
func busyboxLayer() (image.Layer, error) {
	program, err := buildBusybox()
	if err != nil {
		return nil, err
	}
	links, err := applets(program)
	return append(image.Layer{{Path: "bin/busybox", Mode: 0o755, Data: program}}, links...), err
}

// download returns what is at url if it has that SHA-256.
func download(url, sum string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("its SHA-256 is %x, not %s", got, sum)
	}
	return data, nil
}

// unpackTar writes files, folders and links below dir.
func unpackTar(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		switch {
		case err != nil:
		case h.Typeflag == tar.TypeDir:
			err = root.MkdirAll(h.Name, 0o755)
		case h.Typeflag == tar.TypeSymlink:
			err = root.Symlink(h.Linkname, h.Name)
		case h.Typeflag == tar.TypeReg:
			var f *os.File
			if f, err = root.OpenFile(h.Name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, h.FileInfo().Mode().Perm()); err == nil {
				_, err = io.Copy(f, t)
				err = errors.Join(err, f.Close())
			}
		}
		if err != nil {
			return err
		}
	}
}
