package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// takeOver serves one connection that a handler takes over: it echoes a line, tells why its context ended, and returns.
func takeOver(t *testing.T, serve func(net.Conn, *bufio.ReadWriter) error) (client net.Conn, ended <-chan error) {
	t.Helper()
	causes := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w, r, stop := UntilGone(w, r)
		defer stop()
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err == nil {
			err = serve(conn, buf)
		}
		if err != nil {
			t.Error(err)
		}
		<-r.Context().Done()
		causes <- context.Cause(r.Context())
		conn.Close()
	}))
	t.Cleanup(srv.Close)
	client, err := net.DialTimeout("tcp", srv.Listener.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, causes
}

func TestUntilGoneSeesTheClientsEnd(t *testing.T) {
	client, ended := takeOver(t, func(_ net.Conn, buf *bufio.ReadWriter) error {
		line, err := buf.ReadString('\n')
		if err != nil {
			return err
		}
		if _, err := buf.WriteString("got " + line); err != nil {
			return err
		}
		go io.Copy(io.Discard, buf) // whoever reads
		return buf.Flush()
	})
	// The first line comes in one packet with the request: the server has read it ahead.
	if _, err := fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\nearly\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(client).ReadString('\n'); line != "got early\n" {
		t.Fatalf("answer %q, %v", line, err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the context ended before the client: %v", err)
	default:
	}
	client.Close()
	wantGone(t, ended)
}

func TestUntilGoneSeesTheConnectionClosed(t *testing.T) {
	client, ended := takeOver(t, func(conn net.Conn, _ *bufio.ReadWriter) error { return conn.Close() })
	if _, err := fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	wantGone(t, ended)
}

func wantGone(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrClientGone) {
			t.Errorf("the context ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the context did not end")
	}
}
