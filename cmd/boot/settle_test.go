package boot

import "testing"

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

// After its pages were dropped the process still runs: they come back as they are needed.
func TestDropBinary(t *testing.T) {
	if err := dropBinary(); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := readOnly("00400000-04a00000 r-xp 0 0 0 /x", "/x"); !ok {
		t.Error("a line that was parsed before is not parsed now")
	}
}
