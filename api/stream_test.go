package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	clientcommand "k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	forwarding "k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"mgr/api"
	"mgr/api/apitest"
	"mgr/tunnel"
)

// streamingAgent is an agent whose container understands a few commands; it tells when a client has gone.
type streamingAgent struct {
	address string
	gone    chan error
	kill    func() // breaks all connections, as the death of an agent does
}

func newStreamingAgent(t *testing.T) *streamingAgent {
	a := &streamingAgent{gone: make(chan error, 1)}
	srv := httptest.NewUnstartedServer(a)
	srv.Listener = &breakable{Listener: srv.Listener}
	srv.Start()
	t.Cleanup(srv.Close)
	a.kill = srv.Listener.(*breakable).breakAll
	a.address = srv.Listener.Addr().String()
	return a
}

// breakable is a listener that can break the connections it has accepted.
type breakable struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (b *breakable) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.conns = append(b.conns, conn)
	}
	return conn, err
}

func (b *breakable) breakAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range b.conns {
		conn.Close()
	}
}

func (*streamingAgent) Await(context.Context, string) {}

func (a *streamingAgent) RoundTripper(string) (http.RoundTripper, error) {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, a.address)
	}}, nil
}

func (a *streamingAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w, r, stop := tunnel.UntilGone(w, r)
	defer stop()
	q := r.URL.Query()
	switch {
	case strings.HasPrefix(r.URL.Path, "/containerLogs/"):
		fmt.Fprintf(w, "log %s", r.URL.RawQuery)
	case r.Header.Get("Upgrade") != "SPDY/3.1":
		http.Error(w, "not SPDY: "+r.Header.Get("Upgrade"), http.StatusBadRequest)
	case strings.HasPrefix(r.URL.Path, "/portForward/"):
		o, err := forwarding.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		forwarding.ServePortForward(w, r, a, "one", "", o, time.Minute, time.Minute, forwarding.SupportedProtocols)
	case q.Get("command") == "refuse":
		http.Error(w, `container not found ("main")`, http.StatusNotFound)
	default:
		o := &remotecommand.Options{Stdin: q.Has("input"), Stdout: q.Has("output"), Stderr: q.Has("error"), TTY: q.Has("tty")}
		remotecommand.ServeExec(w, r, a, "one", "", "main", q["command"], o, time.Minute, time.Minute, remotecommand.SupportedStreamingProtocols)
	}
}

func (a *streamingAgent) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in) // ends with the client's input
		return err
	case "fail":
		fmt.Fprint(errOut, "it failed")
		return utilexec.CodeExitError{Err: errors.New("exit 7"), Code: 7}
	case "wait":
		fmt.Fprint(out, "waiting")
		<-ctx.Done()
		a.gone <- context.Cause(ctx)
	}
	return nil
}

// PortForward echoes in capitals.
func (a *streamingAgent) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	text, err := io.ReadAll(stream) // ends with the client's half
	if err == nil {
		_, err = fmt.Fprintf(stream, "%d: %s", port, strings.ToUpper(string(text)))
	}
	return err
}

// streaming starts an API server on a port, with a pod on a node.
func streaming(t *testing.T) (*streamingAgent, *rest.Config, *url.URL) {
	t.Helper()
	a := newStreamingAgent(t)
	s := apitest.New(t, func(c *api.Config) { c.Dialer = a })
	if _, err := s.Client.CoreV1().Pods("default").Create(t.Context(), pod("one"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if errs := s.Bind(t.Context(), 0, []api.Binding{{Namespace: "default", Name: "one", Node: "n1"}}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL + "/api/v1/namespaces/default/pods/one")
	if err != nil {
		t.Fatal(err)
	}
	return a, &rest.Config{Host: srv.URL}, u
}

func execute(ctx context.Context, t *testing.T, c *rest.Config, pod *url.URL, command string, in io.Reader, out, errs io.Writer) error {
	t.Helper()
	u := pod.JoinPath("exec")
	u.RawQuery = fmt.Sprintf("command=%s&stdin=%t&stdout=true&stderr=%t", command, in != nil, errs != nil)
	x, err := clientcommand.NewWebSocketExecutor(c, http.MethodGet, u.String())
	if err != nil {
		t.Fatal(err)
	}
	return x.StreamWithContext(ctx, clientcommand.StreamOptions{Stdin: in, Stdout: out, Stderr: errs})
}

func TestExecByWebSocket(t *testing.T) {
	_, config, pod := streaming(t)
	var out, errs bytes.Buffer
	if err := execute(t.Context(), t, config, pod, "cat", strings.NewReader("x\n"), &out, nil); err != nil || out.String() != "x\n" {
		t.Errorf("cat: %q, %v", out.String(), err)
	}
	err := execute(t.Context(), t, config, pod, "fail", nil, io.Discard, &errs)
	var exit clientexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 7 || errs.String() != "it failed" {
		t.Errorf("fail: %v, stderr %q", err, errs.String())
	}
	err = execute(t.Context(), t, config, pod, "refuse", nil, io.Discard, nil)
	if err == nil || !strings.Contains(err.Error(), `unable to upgrade connection: container not found ("main")`) {
		t.Errorf("refused: %v", err)
	}
}

// written closes a channel at the first write.
type written chan struct{}

func (w written) Write(p []byte) (int, error) { close(w); return len(p), nil }

func TestExecEndsWithItsClient(t *testing.T) {
	a, config, pod := streaming(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := make(written)
	go func() { <-begun; cancel() }()
	if err := execute(ctx, t, config, pod, "wait", nil, begun, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	select {
	case err := <-a.gone:
		if !errors.Is(err, tunnel.ErrClientGone) {
			t.Errorf("the command's context ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the agent did not notice that the client has gone")
	}
}

// A command whose agent dies did not succeed, whatever its client speaks. One that ends well has, and keeps its exit code.
func TestExecWhoseAgentDies(t *testing.T) {
	for name, dial := range map[string]func(*rest.Config, string) (clientcommand.Executor, error){
		"WebSocket": func(c *rest.Config, u string) (clientcommand.Executor, error) {
			return clientcommand.NewWebSocketExecutor(c, http.MethodGet, u)
		},
		"SPDY": func(c *rest.Config, u string) (clientcommand.Executor, error) {
			at, err := url.Parse(u)
			if err != nil {
				return nil, err
			}
			return clientcommand.NewSPDYExecutor(c, http.MethodPost, at)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, config, pod := streaming(t)
			run := func(command string, out io.Writer) error {
				u := pod.JoinPath("exec")
				u.RawQuery = "stdout=true&stderr=true&command=" + command
				x, err := dial(config, u.String())
				if err != nil {
					t.Fatal(err)
				}
				return x.StreamWithContext(t.Context(), clientcommand.StreamOptions{Stdout: out, Stderr: io.Discard})
			}
			if err := run("nothing", io.Discard); err != nil {
				t.Errorf("a command that does nothing: %v", err)
			}
			var exit clientexec.CodeExitError
			if err := run("fail", io.Discard); !errors.As(err, &exit) || exit.Code != 7 {
				t.Errorf("a command that fails: %v", err)
			}
			begun := make(written)
			go func() { <-begun; a.kill() }()
			if err := run("wait", begun); err == nil || !strings.Contains(err.Error(), "the connection to node n1 broke before it had told how the command ended") {
				t.Errorf("a command whose agent died: %v", err)
			}
		})
	}
}

func TestLogByWebSocket(t *testing.T) {
	_, _, pod := streaming(t)
	u := pod.JoinPath("log")
	u.Scheme, u.RawQuery = "ws", "container=main&tailLines=3"
	const want = "log tailLines=3"
	for offer, want := range map[string]string{
		"": want, "binary.k8s.io": want, "channel.k8s.io binary.k8s.io": want, "base64.binary.k8s.io": base64.StdEncoding.EncodeToString([]byte(want)),
	} {
		config, err := websocket.NewConfig(u.String(), pod.String())
		if err != nil {
			t.Fatal(err)
		}
		config.Protocol = strings.Fields(offer)
		ws, err := config.DialContext(t.Context())
		if err != nil {
			t.Errorf("%q: %v", offer, err)
			continue
		}
		if got, err := io.ReadAll(ws); string(got) != want || err != nil {
			t.Errorf("%q: %q, %v", offer, got, err)
		}
		ws.Close()
	}
	if ws, err := websocket.Dial(u.String(), "channel.k8s.io", pod.String()); err == nil {
		ws.Close()
		t.Error("a subprotocol that a log does not speak was accepted")
	}
}

func TestPortForwardByWebSocket(t *testing.T) {
	_, config, pod := streaming(t)
	dialer, err := portforward.NewSPDYOverWebsocketDialer(pod.JoinPath("portforward"), config)
	if err != nil {
		t.Fatal(err)
	}
	conn, protocol, err := dialer.Dial(forwarding.PortForwardV1Name)
	if err != nil || protocol != forwarding.PortForwardV1Name {
		t.Fatalf("protocol %q, %v", protocol, err)
	}
	defer conn.Close()
	for i, text := range []string{"one", "two"} {
		header := http.Header{"Port": {"80"}, "Requestid": {fmt.Sprint(i)}, "Streamtype": {"error"}}
		if _, err := conn.CreateStream(header); err != nil {
			t.Fatal(err)
		}
		header.Set("Streamtype", "data")
		data, err := conn.CreateStream(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(data, text); err != nil {
			t.Fatal(err)
		}
		data.Close() // our half
		if got, err := io.ReadAll(data); string(got) != "80: "+strings.ToUpper(text) {
			t.Errorf("got %q, %v", got, err)
		}
	}
}
