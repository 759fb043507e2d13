package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"mgr/agent/image"
)

// debianFile returns one file of a package, the first of the paths that is there: from this machine if the package is installed,
// else from the package as apt downloads it.
func debianFile(pkg string, paths ...string) ([]byte, error) {
	if exec.Command("dpkg-query", "--list", pkg).Run() == nil {
		for _, p := range paths {
			if file, err := os.ReadFile(p); err == nil {
				return file, nil
			}
		}
	}
	files, err := debianFiles(pkg)
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if f, ok := find(files, p); ok {
			return f.Data, nil
		}
	}
	return nil, fmt.Errorf("package %s has no %s", pkg, strings.Join(paths, " or "))
}

func find(files []image.File, name string) (image.File, bool) {
	for _, f := range files {
		if f.Path == strings.TrimPrefix(name, "/") {
			return f, true
		}
	}
	return image.File{}, false
}

// debianFiles returns what the packages and all that they depend on would install, without documentation: nothing of this
// machine is in it, and no script of a package is run.
func debianFiles(packages ...string) ([]image.File, error) {
	dir, err := os.MkdirTemp("", "mkimage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // apt downloads as a user of its own
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "partial"), 0o777); err != nil {
		return nil, err
	}
	// With no package installed, apt chooses the whole closure.
	args := append([]string{"install", "--download-only", "--yes", "--no-install-recommends", "-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache::archives=" + dir, "-o", "Debug::NoLocking=true"}, packages...)
	if out, err := exec.Command("apt-get", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("download Debian's packages %s: %w: %s", strings.Join(packages, ", "), err, bytes.TrimSpace(out))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) == 0 {
		return nil, errors.Join(fmt.Errorf("apt-get downloaded nothing for %s", strings.Join(packages, ", ")), err)
	}
	have := map[string]bool{}
	var all []image.File
	for _, deb := range debs {
		files, err := unpackDeb(deb)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
		for _, f := range files {
			if !have[f.Path] {
				have[f.Path], all = true, append(all, f)
			}
		}
	}
	return all, nil
}

// unneeded are folders of packages that no container looks at.
var unneeded = []string{"usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/",
	"usr/share/bug/", "usr/share/bash-completion/"}

func unpackDeb(deb string) ([]image.File, error) {
	var stderr bytes.Buffer
	unpack := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	unpack.Stderr = &stderr
	archive, err := unpack.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	var files []image.File
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		f := image.File{Path: path.Clean(h.Name), Mode: h.FileInfo().Mode(), UID: h.Uid, GID: h.Gid}
		switch h.Typeflag {
		case tar.TypeReg:
			if f.Data, err = io.ReadAll(tr); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			f.Link = h.Linkname
		case tar.TypeLink: // to a file that came before
			target, ok := find(files, path.Clean(h.Linkname))
			if !ok {
				return nil, fmt.Errorf("%s is a link to %s, which does not come before it", h.Name, h.Linkname)
			}
			f.Data, f.Mode = target.Data, target.Mode
		case tar.TypeDir:
			if f.Mode == fs.ModeDir|0o755 {
				continue // comes by itself
			}
		default:
			return nil, fmt.Errorf("%s is neither a file nor a folder", h.Name)
		}
		if !isUnneeded(f.Path) {
			files = append(files, f)
		}
	}
}

func isUnneeded(path string) bool {
	for _, folder := range unneeded {
		if strings.HasPrefix(path+"/", folder) {
			return true
		}
	}
	return false
}
