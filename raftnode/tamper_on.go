//go:build failpoints

package raftnode

import "mgr/failpoint"

// tamper makes this peer's state differ from the others' when a test asks for it.
func (n *Node) tamper() {
	if failpoint.Err("state.tamper") != nil {
		n.fsm.Tamper()
	}
}
