// Package embedded carries files that are built before the binary and travel inside it: the container shim, the
// program that spares calls of runc, and the demo image. `go run ./cmd/mkimage embed` makes them; a binary built without them compiles and says so when one is asked for.
package embedded

import (
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
)

//go:embed files
var files embed.FS

// ErrNotBuilt: the binary was compiled before its parts.
var ErrNotBuilt = errors.New("run `make build`, which builds it in")

// DemoImageName is the reference under which the demo image is imported.
const DemoImageName = "docker.io/mgr/demo:1"

// Program is the name of an embedded executable.
type Program string

const (
	Shim Program = "shim" // cmd/mgr-shim
	Runc Program = "runc" // cmd/mgr-runc
)

// Executable returns the program, unpacked.
func (p Program) Executable() ([]byte, error) {
	packed, err := p.packed()
	if err != nil {
		return nil, err
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack the embedded %s: %w", p, err)
	}
	program, err := io.ReadAll(zr)
	if err != nil {
		return nil, fmt.Errorf("unpack the embedded %s: %w", p, err)
	}
	return program, nil
}

func (p Program) packed() ([]byte, error) {
	packed, err := files.ReadFile("files/" + string(p) + ".gz")
	if err != nil {
		return nil, fmt.Errorf("this binary was built without its %s: %w", p, ErrNotBuilt)
	}
	return packed, nil
}

// Sum returns bytes that change when the program does, so that a copy on disk can be named by them.
func (p Program) Sum() ([]byte, error) {
	packed, err := p.packed()
	if err != nil {
		return nil, err
	}
	// The trailer of a gzip member is the CRC-32 and the length of its content (RFC 1952).
	return packed[max(0, len(packed)-8):], nil
}

// DemoImage returns the demo image, an OCI layout as a gzipped tar archive.
func DemoImage() ([]byte, error) {
	archive, err := files.ReadFile("files/demo.tar.gz")
	if err != nil {
		return nil, fmt.Errorf("this binary was built without the demo image: %w", ErrNotBuilt)
	}
	return archive, nil
}
