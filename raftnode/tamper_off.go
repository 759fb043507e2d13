//go:build !failpoints

package raftnode

// tamper is for tests, see tamper_on.go.
func (n *Node) tamper() {}
