package containerd

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// decompress reads what was packed with gzip or zstd, recognised by its first bytes; anything else is passed as it is.
func decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("read the gzipped archive: %w", err)
		}
		return zr, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("read the zstd archive: %w", err)
		}
		return zr.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}
