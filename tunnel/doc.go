// Package tunnel carries HTTP requests from masters to agents over connections that the agents opened.
//
// An agent keeps one connection to every master (Keep) and is the HTTP server on it; a master (Registry) opens a stream
// for each request. So agents behind NAT are reachable, and an agent listens on no port. One stream is one net.Conn,
// multiplexed by yamux: protocol upgrades (SPDY, WebSocket) work, and a slow stream does not hold up others.
//
// Who is at the other end is settled before: both sides are given connections whose certificates were verified. The
// package imports nothing of mgr, so masters and agents share it.
package tunnel
