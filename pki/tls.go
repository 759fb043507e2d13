package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// ALPN protocols of the one port besides h2 and http/1.1.
const (
	ALPNRaft  = "mgr-raft"
	ALPNAgent = "mgr-agent"
)

// ServerName is the name that every master's certificate carries, for clients that do not care which one they reach.
const ServerName = "kubernetes"

// ServerTLS are the settings of the one port. A client that offers mgr-raft or mgr-agent must present a certificate of
// the masters or of the nodes and gets nothing else on that connection; an HTTP client's certificate is verified if it
// presents one. frontProxies is the CA of certificates that only HTTP clients may present; its zero value is none.
func ServerTLS(trust, frontProxies Trust, cert *Renewing) *tls.Config {
	pool := trust.Pool()
	base := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: cert.GetCertificate,
		ClientCAs:      pool,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		NextProtos:     []string{"h2", "http/1.1"},
	}
	closed := func(proto, org string) *tls.Config {
		c := base.Clone()
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.NextProtos = []string{proto}
		c.SessionTicketsDisabled = true
		c.VerifyConnection = requireOrg(org, "client")
		return c
	}
	raft, agent := closed(ALPNRaft, OrgMasters), closed(ALPNAgent, OrgNodes)
	front := base.Clone()
	if frontProxies.Cert != nil {
		front.ClientCAs = trust.Pool()
		front.ClientCAs.AddCert(frontProxies.Cert)
	}
	front.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		switch {
		case slices.Contains(hello.SupportedProtos, ALPNRaft):
			return raft, nil
		case slices.Contains(hello.SupportedProtos, ALPNAgent):
			return agent, nil
		}
		return nil, nil
	}
	return front
}

// RaftTLS are the settings for dialing master peer id: it must prove to be that peer.
func RaftTLS(trust Trust, cert *Renewing, id string) *tls.Config {
	return masterTLS(trust, cert, id, ALPNRaft)
}

// AgentTLS are the settings of an agent's tunnel to any master.
func AgentTLS(trust Trust, cert *Renewing) *tls.Config {
	return masterTLS(trust, cert, ServerName, ALPNAgent)
}

// ClientTLS are the settings of an HTTP client of the API. serverName may be ServerName where the address says nothing,
// or empty to take it from the address dialed. cert may be nil for anonymous requests.
func ClientTLS(trust Trust, cert *Renewing, serverName string) *tls.Config {
	c := masterTLS(trust, cert, serverName, "h2")
	c.NextProtos = append(c.NextProtos, "http/1.1")
	return c
}

func masterTLS(trust Trust, cert *Renewing, serverName, proto string) *tls.Config {
	c := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		RootCAs:          trust.Pool(),
		ServerName:       serverName,
		NextProtos:       []string{proto},
		VerifyConnection: requireOrg(OrgMasters, "server"),
	}
	if cert != nil {
		c.GetClientCertificate = cert.GetClientCertificate
	}
	return c
}

// requireOrg refuses a verified peer that does not belong to org, so that no certificate of the CA serves for a role it
// was not issued for. It also runs for resumed sessions.
func requireOrg(org, side string) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		p, ok := PeerOf(&cs)
		if !ok {
			return fmt.Errorf("the %s presented no certificate of this cluster", side)
		}
		if !p.In(org) {
			return fmt.Errorf("the %s is %s (%s), and only %s is accepted here", side, p.Name, strings.Join(p.Orgs, ", "), org)
		}
		return checkTime(p.Leaf, time.Now())
	}
}

func checkTime(leaf *x509.Certificate, now time.Time) error {
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("the certificate of %s expired at %s", leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// DialRaft opens a mgr-raft connection to master peer id at addr.
func DialRaft(ctx context.Context, trust Trust, cert *Renewing, addr, id string) (net.Conn, error) {
	return dial(ctx, RaftTLS(trust, cert, id), addr)
}

// DialAgent opens an agent's tunnel connection to the master at addr.
func DialAgent(ctx context.Context, trust Trust, cert *Renewing, addr string) (net.Conn, error) {
	return dial(ctx, AgentTLS(trust, cert), addr)
}

func dial(ctx context.Context, cfg *tls.Config, addr string) (net.Conn, error) {
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connecting to the master at %s: %w", addr, err)
	}
	got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol
	if want := cfg.NextProtos[0]; got != want {
		conn.Close()
		return nil, fmt.Errorf("the server at %s does not speak %s (got %q): is it a mgr master?", addr, want, got)
	}
	return conn, nil
}
