package enroll

import (
	"encoding/json"

	"mgr/pki"
)

// Paths of the endpoints (POST with a JSON body, except the CA, which is a GET that answers PEM).
const (
	PathCA         = "/mgr/v1/ca"
	PathJoinAgent  = "/mgr/v1/join/agent"
	PathJoinServer = "/mgr/v1/join/server"
	PathJoinMember = "/mgr/v1/join/member"
	PathRenew      = "/mgr/v1/renew"
	PathTokens     = "/mgr/v1/tokens" // also GET; DELETE PathTokens/<id>
)

// MaxRequestBytes bounds the body of a request.
const MaxRequestBytes = 64 << 10

// AgentRequest asks for the certificate of a node.
type AgentRequest struct {
	Token string `json:"token"`
	Node  string `json:"node"`
	CSR   string `json:"csr"` // PEM; see pki.NewRequest
}

// AgentReply makes a machine a node.
type AgentReply struct {
	Certificate string          `json:"certificate"` // PEM
	Masters     []Member        `json:"masters"`
	Config      json.RawMessage `json:"config,omitempty"` // the cluster's settings, as the wiring defines them
}

// ServerRequest asks for what a master needs.
type ServerRequest struct {
	Token string `json:"token"`
	ID    string `json:"id"`
}

// ServerReply makes a machine a master. It contains the cluster's private keys.
type ServerReply struct {
	Secrets pki.Secrets     `json:"secrets"`
	Masters []Member        `json:"masters"`
	Config  json.RawMessage `json:"config,omitempty"`
}

// Member is a master: in replies one that exists, in a request to PathJoinMember the one to be added.
type Member struct {
	ID   string `json:"id"`
	Addr string `json:"addr"` // host:port of its one port
}

// RenewRequest asks for a fresh certificate for the identity of the client certificate it is sent with.
type RenewRequest struct {
	CSR string `json:"csr"` // PEM; by the key of the current certificate
}

// RenewReply carries it.
type RenewReply struct {
	Certificate string `json:"certificate"`
}

// TokenRequest asks for a new join token.
type TokenRequest struct {
	Role        pki.Role `json:"role"`
	TTLSeconds  int64    `json:"ttlSeconds"` // 0: a day
	Description string   `json:"description,omitempty"`
}

// TokenInfo describes a join token. Token, its text with the secret, is there once: in the answer to its creation.
type TokenInfo struct {
	ID          string   `json:"id"`
	Role        pki.Role `json:"role"`
	Expires     string   `json:"expires"` // RFC 3339
	Description string   `json:"description,omitempty"`
	Token       string   `json:"token,omitempty"`
}
