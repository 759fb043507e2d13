// Package boot wires a master and a node from their parts. It is the only place that knows them all; what it does reads from
// top to bottom in master.go and node.go, and tests can run the same wiring.
package boot
