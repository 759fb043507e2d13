package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// link connects an agent with handler h to r as node; the returned function cuts it and waits for both ends.
func connect(t *testing.T, r *Registry, node string, h http.Handler) (cut func()) {
	t.Helper()
	master, agent := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { r.HandleConn(master, node) })
	wg.Go(func() { _ = Serve(context.Background(), agent, h) })
	cut = sync.OnceFunc(func() { agent.Close(); wg.Wait() })
	t.Cleanup(cut)
	await(t, "the tunnel is up", func() bool { _, err := r.RoundTripper(node); return err == nil })
	return cut
}

// await polls a condition that other goroutines bring about.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not reached: %s", what)
		case <-tick.C:
		}
	}
}

func get(t *testing.T, r *Registry, node, path string) (string, error) {
	t.Helper()
	rt, err := r.RoundTripper(node)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+node+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// says answers with its name and the path.
func says(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, r.URL.Path) })
}

func TestMasterReachesTheAgentThatCalled(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	connect(t, r, "n1", says("one"))
	connect(t, r, "n2", says("two"))
	for node, want := range map[string]string{"n1": "one/logs", "n2": "two/logs"} {
		if got, err := get(t, r, node, "/logs"); err != nil || got != want {
			t.Errorf("%s: %q, %v", node, got, err)
		}
	}
	_, err := get(t, r, "n3", "/")
	if !errors.Is(err, ErrNotConnected) || err.Error() != "node n3: its agent is not connected to this master" {
		t.Errorf("n3: %v", err)
	}
	if s := r.Stats(); s.Connected != 2 || s.StreamsOpened != 2 || strings.Join(r.Nodes(), ",") != "n1,n2" {
		t.Errorf("stats %+v, nodes %v", s, r.Nodes())
	}
}

func TestSlowStreamsDoNotHoldUpOthers(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	release := make(chan struct{})
	connect(t, r, "n1", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/slow" {
			<-release
		}
		fmt.Fprint(w, "ok")
	}))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := get(t, r, "n1", "/slow"); err != nil || got != "ok" {
				t.Errorf("slow: %q, %v", got, err)
			}
		})
	}
	await(t, "20 streams are open", func() bool { return r.Stats().StreamsCurrent == 20 })
	if got, err := get(t, r, "n1", "/fast"); err != nil || got != "ok" {
		t.Errorf("fast: %q, %v", got, err)
	}
	close(release)
	wg.Wait()
}

func TestUpgradedConnectionsCarryBothDirections(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	connect(t, r, "n1", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", req.Header.Get("Upgrade"))
		_, _ = io.Copy(conn, buf) // echo
	}))
	// As an upgrade-aware proxy does: dial, write the request, read the answer, then copy bytes.
	conn, err := r.DialContext("n1")(t.Context(), "tcp", "n1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req, err := http.NewRequest(http.MethodPost, "http://n1/exec", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, req)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Fatalf("upgrade: %+v, %v", resp, err)
	}
	for _, line := range []string{"hello\n", strings.Repeat("x", 1<<20) + "\n"} { // more than one window
		go func() { _, _ = io.WriteString(conn, line) }()
		got, err := in.ReadString('\n')
		if err != nil || got != line {
			t.Fatalf("echo of %d bytes: %d bytes, %v", len(line), len(got), err)
		}
	}
}

func TestNewerConnectionReplacesTheOlder(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	cutOld := connect(t, r, "n1", says("old"))
	connect(t, r, "n1", says("new"))
	await(t, "the new agent answers", func() bool { got, err := get(t, r, "n1", ""); return err == nil && got == "new/" })
	cutOld() // its end must not remove the newer one
	if got, err := get(t, r, "n1", ""); err != nil || got != "new/" {
		t.Errorf("after the old connection ended: %q, %v", got, err)
	}
	if s := r.Stats(); s.Connected != 1 || s.LinksReplaced != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestLostAgentIsNotReached(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	cut := connect(t, r, "n1", says("one"))
	cut()
	if _, err := get(t, r, "n1", ""); !errors.Is(err, ErrNotConnected) {
		t.Errorf("after the cut: %v", err)
	}
	connect(t, r, "n2", says("two"))
	r.Disconnect("n2")
	await(t, "n2 is disconnected", func() bool { return len(r.Nodes()) == 0 })
}

// An agent that is about to connect, as after each change of the list of masters, is waited for.
func TestAgentThatIsAboutToConnectIsWaitedFor(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	answer := make(chan string)
	go func() {
		r.Await(t.Context(), "n1")
		got, err := get(t, r, "n1", "/logs")
		answer <- fmt.Sprint(got, err)
	}()
	connect(t, r, "n2", says("two")) // another one is not taken for it
	connect(t, r, "n1", says("one"))
	if got := <-answer; got != "one/logs<nil>" {
		t.Errorf("the request that came first: %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Await(ctx, "n3") // returns: nobody waits for the answer any more
}

func TestRunningRequestsFailWhenTheTunnelEnds(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	arrived := make(chan struct{})
	connect(t, r, "n1", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(arrived)
		<-req.Context().Done()
	}))
	failed := make(chan error, 1)
	go func() { _, err := get(t, r, "n1", ""); failed <- err }()
	<-arrived
	r.Disconnect("n1")
	if err := <-failed; err == nil {
		t.Error("the request succeeded")
	}
}

func TestClosedRegistryTakesNobody(t *testing.T) {
	r := NewRegistry(quiet())
	connect(t, r, "n1", says("one"))
	r.Close()
	await(t, "n1 is gone", func() bool { return len(r.Nodes()) == 0 })
	master, agent := net.Pipe()
	defer agent.Close()
	r.HandleConn(master, "n2") // returns at once
	if len(r.Nodes()) != 0 {
		t.Errorf("connected: %v", r.Nodes())
	}
}

func TestAgentDialsAgainUntilItIsStopped(t *testing.T) {
	r := NewRegistry(quiet())
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var masters sync.WaitGroup
	dials := 0
	dial := func(context.Context) (net.Conn, error) {
		dials++
		if dials == 1 {
			return nil, errors.New("connection refused")
		}
		master, agent := net.Pipe()
		masters.Go(func() { r.HandleConn(master, "n1") })
		return agent, nil
	}
	done := make(chan struct{})
	go func() { Keep(ctx, dial, says("one"), quiet()); close(done) }()
	up := func() bool { got, err := get(t, r, "n1", ""); return err == nil && got == "one/" }
	await(t, "up after a refused dial", up)
	r.Disconnect("n1")
	await(t, "down", func() bool { return !up() })
	await(t, "up again", up)
	cancel()
	<-done
	masters.Wait()
	if len(r.Nodes()) != 0 {
		t.Errorf("still connected after the agent stopped: %v", r.Nodes())
	}
}
