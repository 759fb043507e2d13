//go:build !failpoints

package disk

// Real is the file system on which masters keep their data.
func Real() FS { return OS{} }
