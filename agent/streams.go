package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/vishvananda/netns"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"mgr/tunnel"
)

const (
	streamIdle     = 4 * time.Hour
	streamCreation = 30 * time.Second
)

// podTransport reaches pods; certificates of pods prove nothing to a node.
var podTransport = &http.Transport{
	TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
	MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
	DisableCompression: true,
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	s, c, o, ok := a.streamTarget(w, r)
	if !ok {
		return
	}
	w, r, stop := tunnel.UntilGone(w, r)
	defer stop()
	remotecommand.ServeExec(w, r, streamer{a, r.Context()}, s.pod.Name, string(s.pod.UID), c.ID, r.URL.Query()["command"], o, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	s, c, o, ok := a.streamTarget(w, r)
	if !ok {
		return
	}
	w, r, stop := tunnel.UntilGone(w, r)
	defer stop()
	remotecommand.ServeAttach(w, r, streamer{a, r.Context()}, s.pod.Name, string(s.pod.UID), c.ID, o, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

// streamTarget finds what to exec in or attach to, and which streams are asked for.
func (a *Agent) streamTarget(w http.ResponseWriter, r *http.Request) (shown, Container, *remotecommand.Options, bool) {
	s, ok := a.podOf(w, r)
	if !ok {
		return s, Container{}, nil, false
	}
	c, err := s.running(mux.Vars(r)["container"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return s, c, nil, false
	}
	o, err := streamOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return s, c, nil, false
	}
	return s, c, o, true
}

// streamOptions accepts kubelet's parameters (input, output, error, tty = 1) and the API's (stdin, stdout, stderr, tty = true).
func streamOptions(r *http.Request) (*remotecommand.Options, error) {
	q := r.URL.Query()
	on := func(names ...string) bool {
		for _, n := range names {
			if v := q.Get(n); v == "1" || v == "true" {
				return true
			}
		}
		return false
	}
	o := &remotecommand.Options{
		Stdin:  on(remotecommand.ExecStdinParam, "stdin"),
		Stdout: on(remotecommand.ExecStdoutParam, "stdout"),
		Stderr: on(remotecommand.ExecStderrParam, "stderr"),
		TTY:    on(remotecommand.ExecTTYParam),
	}
	if o.TTY {
		o.Stderr = false // a terminal has one output
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return nil, fmt.Errorf("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

// serveRun executes a command and answers with its output, both streams mixed.
func (a *Agent) serveRun(w http.ResponseWriter, r *http.Request) {
	s, ok := a.podOf(w, r)
	if !ok {
		return
	}
	c, err := s.running(mux.Vars(r)["container"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	out := &lockedWriter{w: w}
	code, err := a.runtime.Exec(r.Context(), c.ID, ExecSpec{Command: r.URL.Query()["cmd"], Streams: Streams{Stdout: out, Stderr: out}})
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case code != 0:
		fmt.Fprintf(w, "\ncommand terminated with exit code %d\n", code)
	}
}

// lockedWriter lets two streams share one writer.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	s, ok := a.podOf(w, r)
	if !ok {
		return
	}
	o, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w, r, stop := tunnel.UntilGone(w, r)
	defer stop()
	portforward.ServePortForward(w, r, streamer{a, r.Context()}, s.pod.Name, string(s.pod.UID), o, streamIdle, streamCreation, portforward.SupportedProtocols)
}

// streamer connects the streaming protocols of Kubernetes to the runtime.
type streamer struct {
	a      *Agent
	client context.Context // ends with the client's connection; portforward gives its forwarder none that does
}

// ExecInContainer implements remotecommand.Executor; container is an id.
func (s streamer) ExecInContainer(ctx context.Context, _, _, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := s.a.runtime.Exec(ctx, container, ExecSpec{Command: cmd, Streams: streamsOf(ctx, in, out, errOut, tty, resize)})
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// AttachContainer implements remotecommand.Attacher; container is an id.
func (s streamer) AttachContainer(ctx context.Context, _, _, container string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := s.a.runtime.Attach(ctx, container, streamsOf(ctx, in, out, errOut, tty, resize))
	if errors.Is(context.Cause(ctx), tunnel.ErrClientGone) {
		return nil // clients detach by going
	}
	return err
}

func streamsOf(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) Streams {
	s := Streams{TTY: tty}
	// A nil of a concrete type is not a nil interface; the runtime must see what is missing.
	if in != nil {
		s.Stdin = in
	}
	if out != nil {
		s.Stdout = out
	}
	if errOut != nil {
		s.Stderr = errOut
	}
	if resize != nil {
		sizes := make(chan TerminalSize)
		s.Resize = sizes
		go func() {
			defer close(sizes)
			for {
				select {
				case size, ok := <-resize:
					if !ok {
						return
					}
					select {
					case sizes <- TerminalSize{Width: size.Width, Height: size.Height}:
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return s
}

// lastWords is how long the pod's side of a forwarded connection may still take what the client had sent when the pod has
// closed its own.
const lastWords = time.Second

// PortForward implements portforward.PortForwarder.
func (s streamer) PortForward(_ context.Context, name, uid string, port int32, stream io.ReadWriteCloser) error {
	ctx := s.client
	defer stream.Close()
	w := s.a.worker(uid)
	if w == nil {
		return fmt.Errorf("pod %q does not exist", name)
	}
	// From now on, not when the pod has answered: until its stream is read, others on the client's connection wait.
	waiting := newBacklog()
	defer waiting.close()
	go waiting.fill(stream) // ends with the stream, which the client's connection ends
	conn, err := s.a.dialPod(ctx, w.look(), port)
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside pod %q: %w", port, name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); waiting.close() })
	defer stop()
	sent := make(chan struct{})
	go func() { // ends at the latest when waiting is closed
		defer close(sent)
		_, _ = waiting.WriteTo(conn)
		// The client has no more to say, but may still listen.
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, conn)
	stream.Close()
	patience := time.NewTimer(lastWords)
	defer patience.Stop()
	select {
	case <-sent:
	case <-patience.C:
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// dialIn dials from inside a network namespace. The thread that enters it does nothing else and dies with its goroutine, so
// it can taint no other.
func dialIn(ctx context.Context, path, addr string, d *net.Dialer) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err != nil {
			done <- result{nil, fmt.Errorf("opening the pod's network namespace: %w", err)}
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			done <- result{nil, fmt.Errorf("entering the pod's network namespace: %w", err)}
			return
		}
		conn, err := dialHere(ctx, addr, d)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dialHere dials without the helper goroutines that Dialer starts for names and for IPv6 fallback: they would run on
// threads outside the namespace.
func dialHere(ctx context.Context, addr string, d *net.Dialer) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return conn, nil
	}
	if conn, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", port)); err6 == nil {
		return conn, nil
	}
	return nil, err
}
