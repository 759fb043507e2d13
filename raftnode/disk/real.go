//go:build !failpoints

package disk

// Real is the file system on which masters keep their data.
func Real() FS { return OS{} }

// IsReal says whether what is written there are files of this machine.
func IsReal(fsys FS) bool {
	_, ok := fsys.(OS)
	return ok
}
