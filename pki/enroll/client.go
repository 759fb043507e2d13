package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"mgr/pki"
)

const (
	requestTimeout = 15 * time.Second
	defaultPort    = "6443"
)

// Client talks to the masters of one cluster, whose CA it trusts; it tries them in turn.
type Client struct {
	trust   pki.Trust
	servers []string
	cert    *pki.Renewing // nil: anonymous
}

// NewClient trusts what was learned before. servers are addresses ("10.0.0.1", "host:6443", "https://host:6443").
func NewClient(trust pki.Trust, cert *pki.Renewing, servers []string) (*Client, error) {
	bases, err := baseURLs(servers)
	return &Client{trust: trust, servers: bases, cert: cert}, err
}

// Discover fetches the CA of the cluster behind servers and trusts it if it is the one that the token expects.
func Discover(ctx context.Context, servers []string, token pki.Token) (*Client, error) {
	bases, err := baseURLs(servers)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, base := range bases {
		trust, err := fetchCA(ctx, base)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if trust.Hash() != token.CAHash {
			return nil, fmt.Errorf("the server at %s has a CA with SHA-256 %s, but the token expects %s: it belongs to another "+
				"cluster, or somebody sits between; nothing secret was sent", base, trust.Hash(), token.CAHash)
		}
		return &Client{trust: trust, servers: bases}, nil
	}
	return nil, errors.Join(errs...)
}

// fetchCA asks an unverified server for its CA certificate, which is public.
func fetchCA(ctx context.Context, base string) (pki.Trust, error) {
	// Verification comes after: the answer is compared with the token's hash, and nothing is sent but this GET.
	hc := httpClient(&tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}) //nolint:gosec // see above
	defer hc.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+PathCA, nil)
	if err != nil {
		return pki.Trust{}, err
	}
	body, err := do(hc, req)
	if err != nil {
		return pki.Trust{}, fmt.Errorf("asking %s for its CA certificate: %w", base, err)
	}
	trust, err := pki.ParseTrust(body)
	if err != nil {
		return pki.Trust{}, fmt.Errorf("asking %s for its CA certificate: %w; is it a mgr master?", base, err)
	}
	return trust, nil
}

// Call posts in to path and decodes the answer into out; both are JSON, either may be nil. Masters that cannot be reached
// or are not able to answer now (5xx) are passed over for the next; any other refusal is final.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encoding the request to %s: %w", path, err)
	}
	hc := httpClient(pki.ClientTLS(c.trust, c.cert, pki.ServerName))
	defer hc.CloseIdleConnections()
	var errs []error
	for _, base := range c.servers {
		req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		answer, err := do(hc, req)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", base, err))
			var refused *Refused
			if errors.As(err, &refused) && refused.Code < http.StatusInternalServerError {
				break
			}
			continue
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("decoding the answer of %s%s: %w", base, path, err)
		}
		return nil
	}
	return errors.Join(errs...)
}

// Refused is a master's refusal.
type Refused struct {
	Code    int    // HTTP status
	Message string // of the Kubernetes Status in the body
}

func (r *Refused) Error() string { return r.Message }

func do(hc *http.Client, req *http.Request) ([]byte, error) {
	resp, err := hc.Do(req)
	if err != nil {
		var u *url.Error // its text repeats the URL, which callers name already
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return body, nil
	}
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &status) != nil || status.Message == "" {
		status.Message = "it answered " + resp.Status
	}
	return nil, &Refused{Code: resp.StatusCode, Message: status.Message}
}

// httpClient goes where it is told: no proxy, no redirects.
func httpClient(c *tls.Config) *http.Client {
	return &http.Client{
		Timeout:       requestTimeout,
		Transport:     &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func baseURLs(servers []string) ([]string, error) {
	if len(servers) == 0 {
		return nil, errors.New("no server to join is given: want the address of a master, such as 10.0.0.1:6443")
	}
	bases := make([]string, 0, len(servers))
	for _, s := range servers {
		host := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "https://"), "/")
		if host == "" || strings.ContainsAny(host, "/?#@ ") {
			return nil, fmt.Errorf("server address %q is malformed: want host, host:port or https://host:port", s)
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		bases = append(bases, "https://"+host)
	}
	return bases, nil
}
