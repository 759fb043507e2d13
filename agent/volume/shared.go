package volume

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CheckShared says what is missing for mounts that a container makes below path to reach the node: the mount that path lies on
// must be a shared one, as systemd makes all of them.
func CheckShared(path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return fmt.Errorf("inspecting %s: %w", path, err)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	id := strconv.FormatUint(st.Mnt_id, 10)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 7 || fields[0] != id {
			continue
		}
		// The optional fields, of which "shared:N" is one, end with a dash.
		for _, option := range fields[6:] {
			if option == "-" {
				break
			}
			if strings.HasPrefix(option, "shared:") {
				return nil
			}
		}
		at := unescape(fields[4])
		return fmt.Errorf("path %q is mounted on %q but it is not a shared mount; on the node: mount --make-rshared %s", path, at, at)
	}
	return lines.Err()
}
