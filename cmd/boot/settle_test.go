package boot

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestReadOnlyPartsOfTheBinary(t *testing.T) {
	const exe = "/usr/local/bin/mgr"
	for line, want := range map[string]bool{
		"00400000-04a00000 r-xp 00000000 fe:00 123                                /usr/local/bin/mgr":  true,
		"04a00000-08b00000 r--p 04600000 fe:00 123                                /usr/local/bin/mgr":  true,
		"08b00000-08c00000 rw-p 08700000 fe:00 123                                /usr/local/bin/mgr":  false,
		"7f0000000000-7f0000021000 r-xp 00000000 fe:00 99                         /lib/x86_64/libc.so": false,
		"c000000000-c004000000 rw-p 00000000 00:00 0":                                                  false,
		"7ffc0000-7ffd0000 rw-p 00000000 00:00 0                                  [stack]":             false,
		"": false,
	} {
		from, to, ok := readOnly(line, exe)
		if ok != want || ok && to <= from {
			t.Errorf("%q: %x-%x %v, want %v", line, from, to, ok, want)
		}
	}
}

// The pages of the binary leave memory, and the process runs on: they come back as they are needed.
func TestDropBinary(t *testing.T) {
	before := resident(t)
	if err := dropBinary(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t); after >= before {
		t.Errorf("%d kB of files in memory before, %d after", before, after)
	}
}

// resident is how much of the files that this process maps is in memory, in kB.
func resident(t *testing.T) (kB int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(rest, &kB); !found || err != nil {
		t.Fatalf("RssFile in /proc/self/status: %v", err)
	}
	return kB
}
