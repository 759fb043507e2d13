package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// Client talks to the supervisor of the cluster in a directory.
type Client struct {
	dir string
	hc  http.Client
}

// NewClient returns a client for the cluster in dir; it connects at the first call.
func NewClient(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socketPath(dir))
	}
	return &Client{dir: dir, hc: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Hosts returns the state of every host.
func (c *Client) Hosts(ctx context.Context) ([]Status, error) {
	var all []Status
	return all, c.call(ctx, http.MethodGet, "/hosts", &all)
}

// Do carries out one of Verbs on a host.
func (c *Client) Do(ctx context.Context, host, verb string) error {
	return c.call(ctx, http.MethodPost, "/hosts/"+host+"/"+verb, nil)
}

// End stops all hosts and the supervisor.
func (c *Client) End(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/end", nil)
}

// Alive says whether a supervisor answers.
func (c *Client) Alive(ctx context.Context) bool {
	_, err := c.Hosts(ctx)
	return err == nil
}

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("%w running in %s: start one with `mgr up`", ErrNone, c.dir)
		}
		return fmt.Errorf("ask the local cluster's supervisor: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask the local cluster's supervisor: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}
