//go:build failpoints && !(linux && amd64)

package failpoint

import "errors"

const clockName = "clock"

func setClock(string) error { return errors.New("clock: only on linux/amd64") }
