//go:build !failpoints

package failpoint

// Enabled says whether this program has failpoints.
const Enabled = false

// Hit marks a moment that cannot fail.
func Hit(string) {}

// Err marks a moment that can fail: the caller treats an error like one of what it was about to do.
func Err(string) error { return nil }

// Number is a bound that a test may want to meet soon: value.
func Number(_ string, value int) int { return value }
