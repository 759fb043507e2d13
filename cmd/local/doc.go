// Package local runs a whole cluster on one Linux machine: every master and node is a host of its own, that is a network
// namespace with an address on a shared bridge, a data directory and processes. It is the demo, the developer's cluster and
// the test harness in one.
//
// A Supervisor process owns the hosts' processes as systemd would: it starts them, restarts what dies with back-off, and can
// stop, kill, pause, cut off and heal a host. It answers on a unix socket in the cluster's directory (Client). Up and Down
// bring a cluster to life and remove every trace of it; both may be repeated after a crash at any point.
package local
