package enroll

import (
	"context"
	"fmt"
	"net/http"

	"mgr/pki"
)

// JoinServer fetches what this machine needs to be master id of a cluster. When it serves, it calls AddMember.
func JoinServer(ctx context.Context, servers []string, tokenText, id string) (*ServerReply, error) {
	token, err := pki.ParseToken(tokenText)
	if err != nil {
		return nil, err
	}
	if token.Role != pki.RoleServer {
		return nil, fmt.Errorf("joining as master %q: an agent token cannot make a master; nothing was sent", id)
	}
	client, err := Discover(ctx, servers, token)
	if err != nil {
		return nil, fmt.Errorf("joining as master %q: %w", id, err)
	}
	var reply ServerReply
	if err := client.Call(ctx, http.MethodPost, PathJoinServer, ServerRequest{Token: token.Text(), ID: id}, &reply); err != nil {
		return nil, fmt.Errorf("joining as master %q: %w", id, err)
	}
	return &reply, nil
}

// AddMember asks the masters to take this one, which serves at m.Addr and shows its certificate, into the quorum. Only
// the leader can: the others say so, and the next is asked.
func AddMember(ctx context.Context, trust pki.Trust, cert *pki.Renewing, servers []string, m Member) error {
	client, err := NewClient(trust, cert, servers)
	if err != nil {
		return err
	}
	if err := client.Call(ctx, http.MethodPost, PathJoinMember, m, nil); err != nil {
		return fmt.Errorf("joining the quorum as %q: %w", m.ID, err)
	}
	return nil
}
