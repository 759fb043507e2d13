// Package backup is the format of a snapshot file: everything that a cluster is, in one file, from which it can be brought back on
// machines that know nothing of it.
//
// # Contract
//
// A file holds a header (what was saved, when, where), the cluster's keys (CA, service-account signing key) and the replicated state,
// in this order, so that the header is read without the rest. Whoever has an unsealed file has the cluster's keys and secrets; Seal
// wraps the whole of it with age (https://age-encryption.org), for a passphrase or for recipients.
//
// What Load returns without an error is what Write was given: every byte is covered by a checksum of its frame and by one of the whole
// file, every object is parsed, the state's hash, its claims and the header's numbers are compared with the header, and the keys must
// belong together. A file that was cut, altered or followed by anything is refused with ErrDamaged; a newer format is refused with
// the advice to use a newer mgr. Equal states give equal state sections, whichever master wrote them.
//
// # Layout
//
//	"mgrsnap\n" format(1)
//	{ kind(1) { length(4) crc32c(4) data }* length 0 }*      sections: 'h' header (JSON), 'k' keys (JSON), 's' state (zstd of
//	                                                         fsm.State.WriteSnapshot)
//	'e' sha256(32)                                           of everything before
//
// Numbers are little-endian; a frame's data have at most 1 MiB.
package backup
