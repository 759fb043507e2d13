package main

import (
	"encoding/binary"
	"time"
)

// deleteResponse encodes containerd.task.v3.DeleteResponse {1: pid, 2: exit_status, 3: exited_at {1: seconds, 2: nanos}}; three
// numbers do not deserve a library of protobufs in a program that is to be small.
func deleteResponse(pid, status int, at time.Time) []byte {
	number := func(out []byte, field, value uint64) []byte {
		return binary.AppendUvarint(binary.AppendUvarint(out, field<<3), value)
	}
	stamp := number(number(nil, 1, uint64(at.Unix())), 2, uint64(at.Nanosecond()))
	out := number(number(nil, 1, uint64(pid)), 2, uint64(status))
	out = binary.AppendUvarint(out, 3<<3|2) // a message follows, by its length
	return append(binary.AppendUvarint(out, uint64(len(stamp))), stamp...)
}
