// Package raftnode runs one peer of the Raft quorum: hashicorp/raft over files of our own, applying to an fsm.FSM:
// the log (wal.go), term and vote (vote.go), snapshots (snapstore.go), which stand on a seam to the file system (package disk).
//
// It owns: proposing with group commit (many commands in one log entry), linearizable reads (read index), leadership
// scope, membership, the peer transport (raft and a small peer RPC over TLS streams handed to it by the one port) and
// snapshots on disk. It knows neither the API nor controllers.
//
// # Promises
//
// A Propose that returns no error is durable on a majority and applied here; fsm.ErrNotLeader, fsm.ErrFull and
// fsm.ErrBusy say that nothing was written, fsm.ErrUnknown that it may have been. After ReadIndex this peer's state has
// everything that was acknowledged anywhere before the call. RunAsLeader runs its function at most once for each term and
// never twice at once. A peer whose log cannot be applied stops (Failed) rather than differ from the others; it must be
// started anew. A leader whose disk hangs steps down, and a full disk refuses writes but not reads and elections.
//
// # Goroutines
//
// Besides those of hashicorp/raft a node has, from Open to Close, which waits for them all:
//
//	attendant.work      three: log, vote and snapshots are written there, so that a write can be given up; not waited for when the disk hangs
//	followLeadership    turns raft's notifications into scopes (leadership.go)
//	establish           one for each election won: commits the first entry of the term
//	proposeLoop         Config.InFlight of them, each carries one entry at a time (propose.go)
//	lane.receive, sendAhead  two for each follower that is up to date, while leading: entries go out while the disk writes (early.go)
//	rounds.loop         one for each question under way that several wait for (readindex.go, peer.go)
//	pushCommits         tells followers how far the log is committed, at once when one asks (peer.go)
//	watchLeader         notices at once when the leader's process dies (succession.go)
//	housekeep           snapshots and free space
//	compareStates       finds out whose state differs from that of the others (diverge.go)
//	adapt               makes a follower on a slow machine more patient (adapt.go)
//	tend                while leading: looks after the members (tend.go, care.go)
//	gate.pass           hands on what other peers send, or refuses it (gate.go)
//	comeOfAge           until this peer may vote
//	shutDownFailed      takes a failed peer out of the quorum
//
// HandleConn runs on the goroutine of whoever accepted the connection. Everything waits by channels and timers, so with
// MemoryStorage and pipes (package raftnodetest) a quorum lives in a testing/synctest bubble.
package raftnode
