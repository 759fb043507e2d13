// Package raftnode runs one peer of the Raft quorum: hashicorp/raft over raft-boltdb, applying to an fsm.FSM.
//
// It owns: proposing with group commit (many commands in one log entry), linearizable reads (read index), leadership
// scope, membership, the peer transport (raft and a small peer RPC over TLS streams handed to it by the one port) and
// snapshots on disk. It knows neither the API nor controllers.
package raftnode
