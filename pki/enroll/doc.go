// Package enroll is the machine's side of becoming a member of a cluster: joining with a token, keeping what was issued,
// renewing it. The master's side is mgr/api/join.
//
// Joining sends nothing secret to a server that has not proven itself: the CA certificate is fetched first and compared
// with the hash inside the token; only then, over a connection verified with that CA, the token itself goes out.
package enroll
