// Package pki is the trust of a cluster: one certificate authority, the certificates it issues, the TLS settings of
// every connection, and the format of join tokens.
//
// # Contract
//
// A cluster has one CA (ECDSA P-256, ten years) and one service-account signing key, made at bootstrap. Masters hold
// both private keys, agents hold neither. A certificate names an identity, never an address alone:
//
//	admin   CN=mgr-admin           O=system:masters   client
//	master  CN=<peer id>           O=mgr:masters      client and server, SAN DNS=<peer id>
//	agent   CN=system:node:<name>  O=system:nodes     client
//
// Certificates live one year and renew themselves at two thirds of that, without a restart (Renewing). A master's
// certificate exists in memory only; whoever holds the CA key needs none on disk. Files are 0600 in directories 0700.
//
// One TLS port serves everything (Port): the ALPN protocol decides whether a connection is HTTP, Raft (masters only) or
// an agent's tunnel (nodes only); for the latter two the certificate is demanded in the handshake.
package pki
