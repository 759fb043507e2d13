package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

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

// Candidate is a master that wants to be in the quorum.
type Candidate struct {
	Member
	Instance uint64 // of its process; 0: not told. A copy of its data directory elsewhere has another one
	Ask      bool   // only ask whether it would be taken in; nothing changes
}

// AddMember asks the masters to take this one, which serves at c.Addr and shows its certificate, into the quorum. Only
// the leader can: the others say so, and the next is asked. What masters of earlier versions do not know is told in the URL, where
// they do not look.
func AddMember(ctx context.Context, trust pki.Trust, cert *pki.Renewing, servers []string, c Candidate) error {
	client, err := NewClient(trust, cert, servers)
	if err != nil {
		return err
	}
	path := PathJoinMember + "?" + c.query().Encode()
	if err := client.Call(ctx, http.MethodPost, path, c.Member, nil); err != nil {
		return fmt.Errorf("joining the quorum as %q: %w", c.ID, err)
	}
	return nil
}

func (c Candidate) query() url.Values {
	q := url.Values{}
	if c.Instance != 0 {
		q.Set("instance", strconv.FormatUint(c.Instance, 16))
	}
	if c.Ask {
		q.Set("ask", "true")
	}
	return q
}

// ParseCandidate is the candidate of a request made by AddMember.
func ParseCandidate(m Member, q url.Values) (Candidate, error) {
	c := Candidate{Member: m, Ask: q.Get("ask") == "true"}
	if text := q.Get("instance"); text != "" {
		var err error
		if c.Instance, err = strconv.ParseUint(text, 16, 64); err != nil {
			return c, fmt.Errorf("instance %q is not a hexadecimal number", text)
		}
	}
	return c, nil
}

// Final says whether asking again cannot help: a master has understood and refused.
func Final(err error) bool {
	var refused *Refused
	return errors.As(err, &refused) && refused.Code < http.StatusInternalServerError
}
