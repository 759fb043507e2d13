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

	"mgr/agent/env"
)

const (
	version = "1.37" // of Kubernetes, as the user agent says
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

// Result of one check.
type Result int

const (
	Failure Result = iota
	Success
	// Warning is a success that deserves a word: a redirect to another host, which was not followed.
	Warning
)

func verdict(ok bool) Result {
	if ok {
		return Success
	}
	return Failure
}

// Check runs p once. The message says why the result is what it is; an error means that there is no result.
func Check(ctx context.Context, p *v1.Probe, t Target) (r Result, message string, err error) {
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
	return Failure, "", fmt.Errorf("missing probe handler for container %s", t.Container.Name)
}

func timeout(p *v1.Probe) time.Duration {
	return time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
}

func checkExec(ctx context.Context, p *v1.Probe, t Target) (Result, string, error) {
	command := env.ExpandAll(p.Exec.Command, plain(t.Container))
	out, code, err := t.Exec(ctx, command)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout(p)), nil
	case err != nil:
		return Failure, "", err
	}
	return verdict(code == 0), clip(out), nil
}

// plain looks up those of the container's variables that are written in its specification; a probe's command sees no others.
func plain(c *v1.Container) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := len(c.Env) - 1; i >= 0; i-- {
			if c.Env[i].Name == name && c.Env[i].ValueFrom == nil {
				return c.Env[i].Value, true
			}
		}
		return "", false
	}
}

func clip(s string) string { return s[:min(len(s), maxOutput)] }

// Request makes the HTTP request that an HTTPGetAction describes, on behalf of a "probe" or of a "lifecycle" hook.
func Request(ctx context.Context, a *v1.HTTPGetAction, t Target, purpose string) (*http.Request, error) {
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
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range a.HTTPHeaders {
		r.Header.Add(h.Name, h.Value)
	}
	r.Host = r.Header.Get("Host")
	// An empty value of these two asks for none; of the user agent the client itself knows that.
	if _, given := r.Header["User-Agent"]; !given {
		r.Header.Set("User-Agent", "kube-"+purpose+"/"+version)
	}
	if _, given := r.Header["Accept"]; !given {
		r.Header.Set("Accept", "*/*")
	} else if r.Header.Get("Accept") == "" {
		r.Header.Del("Accept")
	}
	return r, nil
}

// Client is one for a single request to a container: it asks whether something answers, not who it is, uses no proxy, and follows
// redirects only on the container's own host.
func Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		},
		CheckRedirect: sameHost,
	}
}

func checkHTTP(ctx context.Context, a *v1.HTTPGetAction, t Target) (Result, string, error) {
	r, err := Request(ctx, a, t, "probe")
	if err != nil {
		return Failure, "", err
	}
	resp, err := Client().Do(r)
	if err != nil {
		return Failure, err.Error(), nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	switch {
	case err != nil:
		return Failure, "", err
	case resp.StatusCode < 200 || resp.StatusCode >= 400:
		return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
	case resp.StatusCode >= 300:
		return Warning, fmt.Sprintf("Probe terminated redirects, Response body: %s", body), nil
	}
	return Success, string(body), nil
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

func checkTCP(ctx context.Context, a *v1.TCPSocketAction, t Target) (Result, string, error) {
	port, err := portOf(a.Port, t.Container)
	if err != nil {
		return Failure, "", err
	}
	host := a.Host
	if host == "" {
		host = t.IP()
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Failure, err.Error(), nil
	}
	c.Close()
	return Success, "", nil
}

func checkGRPC(ctx context.Context, p *v1.Probe, t Target) (Result, string, error) {
	addr := net.JoinHostPort(t.IP(), strconv.Itoa(int(p.GRPC.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithUserAgent("kube-probe/"+version), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return Failure, "", err
	}
	defer conn.Close()
	service := ""
	if p.GRPC.Service != nil {
		service = *p.GRPC.Service
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "user-agent", "kube-probe/"+version)
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
		if resp.Status == grpc_health_v1.HealthCheckResponse_SERVING {
			return Success, "service healthy", nil
		}
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status), nil
	case codes.Unimplemented:
		return Failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message()), nil
	case codes.DeadlineExceeded:
		return Failure, fmt.Sprintf("timeout: failed to connect service %q within %s: %s", addr, timeout(p), status.Convert(err).Message()), nil
	}
	return Failure, fmt.Sprintf("error: health rpc probe failed: %v", err), nil
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
