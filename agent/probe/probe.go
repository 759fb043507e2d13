// Package probe runs the health checks of containers: HTTP, TCP, gRPC and commands, with Kubernetes' thresholds, delays
// and messages. Network checks are dialled from the calling process, so it must live in the node's network namespace.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	userAgent = "kube-probe/1.37"
	// maxOutput is how much of a response or a command's output is kept for the event.
	maxOutput = 10 << 10
	tries     = 3 // when the check itself cannot be made
)

// Target is the container to check.
type Target struct {
	Container *v1.Container
	IP        func() string
	// Exec runs a command in the container and returns its combined output.
	Exec func(ctx context.Context, command []string) (output string, exitCode int, err error)
}

// Check runs p once. ok is the verdict and message says why; an error means that there is no verdict.
func Check(ctx context.Context, p *v1.Probe, t Target) (ok bool, message string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(p))
	defer cancel()
	switch {
	case p.Exec != nil:
		return checkExec(ctx, p, t)
	case p.HTTPGet != nil:
		return checkHTTP(ctx, p.HTTPGet, t)
	case p.TCPSocket != nil:
		return checkTCP(ctx, p.TCPSocket, t)
	case p.GRPC != nil:
		return checkGRPC(ctx, p, t)
	}
	return false, "", fmt.Errorf("missing probe handler for container %s", t.Container.Name)
}

func timeout(p *v1.Probe) time.Duration {
	return time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
}

func checkExec(ctx context.Context, p *v1.Probe, t Target) (bool, string, error) {
	out, code, err := t.Exec(ctx, p.Exec.Command)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return false, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(p.Exec.Command, " "), timeout(p)), nil
	case err != nil:
		return false, "", err
	}
	return code == 0, clip(out), nil
}

func clip(s string) string { return s[:min(len(s), maxOutput)] }

// Request makes the HTTP request that an HTTPGetAction describes; lifecycle hooks use it too.
func Request(ctx context.Context, a *v1.HTTPGetAction, t Target) (*http.Request, error) {
	port, err := portOf(a.Port, t.Container)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = t.IP()
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(a.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header = http.Header{"User-Agent": {userAgent}, "Accept": {"*/*"}, "Connection": {"close"}}
	for _, h := range a.HTTPHeaders {
		switch {
		case strings.EqualFold(h.Name, "Host"):
			r.Host = h.Value
		case h.Value == "" && (strings.EqualFold(h.Name, "User-Agent") || strings.EqualFold(h.Name, "Accept")):
			r.Header.Del(h.Name)
		case r.Header.Get(h.Name) == userAgent || r.Header.Get(h.Name) == "*/*":
			r.Header.Set(h.Name, h.Value)
		default:
			r.Header.Add(h.Name, h.Value)
		}
	}
	return r, nil
}

func checkHTTP(ctx context.Context, a *v1.HTTPGetAction, t Target) (bool, string, error) {
	r, err := Request(ctx, a, t)
	if err != nil {
		return false, "", err
	}
	client := http.Client{
		Transport: &http.Transport{
			// A probe asks whether something answers, not who it is.
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		},
		CheckRedirect: sameHost,
	}
	resp, err := client.Do(r)
	if err != nil {
		return false, err.Error(), nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	if err != nil && len(body) == 0 {
		return false, "", err
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 400 {
		return true, string(body), nil
	}
	return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
}

// sameHost follows redirects only on the container's own host; a redirect elsewhere counts as an answer.
func sameHost(r *http.Request, via []*http.Request) error {
	if r.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

func checkTCP(ctx context.Context, a *v1.TCPSocketAction, t Target) (bool, string, error) {
	port, err := portOf(a.Port, t.Container)
	if err != nil {
		return false, "", err
	}
	host := a.Host
	if host == "" {
		host = t.IP()
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false, err.Error(), nil
	}
	c.Close()
	return true, "", nil
}

func checkGRPC(ctx context.Context, p *v1.Probe, t Target) (bool, string, error) {
	addr := net.JoinHostPort(t.IP(), strconv.Itoa(int(p.GRPC.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithUserAgent(userAgent), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false, "", err
	}
	defer conn.Close()
	service := ""
	if p.GRPC.Service != nil {
		service = *p.GRPC.Service
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "user-agent", userAgent)
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
		if resp.Status == grpc_health_v1.HealthCheckResponse_SERVING {
			return true, "service healthy", nil
		}
		return false, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status), nil
	case codes.Unimplemented:
		return false, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message()), nil
	case codes.DeadlineExceeded:
		return false, fmt.Sprintf("timeout: failed to connect service %q within %s: %s", addr, timeout(p), status.Convert(err).Message()), nil
	}
	return false, fmt.Sprintf("error: health rpc probe failed: %v", err), nil
}

// portOf resolves a number or the name of one of the container's ports.
func portOf(p intstr.IntOrString, c *v1.Container) (int, error) {
	port := p.IntValue()
	if p.Type == intstr.String && port == 0 {
		for _, named := range c.Ports {
			if named.Name == p.StrVal {
				port = int(named.ContainerPort)
			}
		}
		if port == 0 {
			return 0, fmt.Errorf("couldn't find port: %v for container %s", p.String(), c.Name)
		}
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return port, nil
}
