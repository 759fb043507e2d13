// Package embedded carries files that are built before the binary and travel inside it: the container shim and the demo
// image. `go run ./cmd/mkimage embed` makes them; a binary built without them compiles and says so when one is asked for.
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

// Shim returns the shim's executable, unpacked.
func Shim() ([]byte, error) {
	packed, err := files.ReadFile("files/shim.gz")
	if err != nil {
		return nil, fmt.Errorf("this binary was built without its shim: %w", ErrNotBuilt)
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack the embedded shim: %w", err)
	}
	shim, err := io.ReadAll(zr)
	if err != nil {
		return nil, fmt.Errorf("unpack the embedded shim: %w", err)
	}
	return shim, nil
}

// ShimSum returns bytes that change when the embedded shim does, so that a copy on disk can be named by them.
func ShimSum() ([]byte, error) {
	packed, err := files.ReadFile("files/shim.gz")
	if err != nil {
		return nil, fmt.Errorf("this binary was built without its shim: %w", ErrNotBuilt)
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
