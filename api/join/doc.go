// Package join is the master's side of membership: the endpoints below /mgr/v1/ by which machines join with a token, renew
// their certificates and enter the quorum, and by which administrators manage tokens. The machine's side is
// mgr/pki/enroll.
//
//	GET    /mgr/v1/ca            anyone          the CA certificate (PEM)
//	POST   /mgr/v1/join/agent    a join token    a certificate for system:node:<name>; binds the name to the key
//	POST   /mgr/v1/join/server   a server token  the CA and its key, the signing key, the masters
//	POST   /mgr/v1/join/member   a master        takes that master into the quorum
//	POST   /mgr/v1/renew         a node          a fresh certificate for the same name and key
//	GET    /mgr/v1/tokens        administrators  POST makes one, DELETE /mgr/v1/tokens/<id> removes one
//
// The handlers stand behind authentication and authorization, which know the sender also when another master forwarded
// the request. State is kept in Secrets of kube-system: of a token only its hash, of a node its key's hash. Only
// taking a master into the quorum needs the leader.
package join
