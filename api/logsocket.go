package api

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"golang.org/x/net/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Subprotocols of a log as WebSocket messages: its bytes, or the same in base64 as text. No subprotocol means bytes.
const (
	logBinary = "binary.k8s.io"
	logBase64 = "base64.binary.k8s.io"
)

// logFromNode answers with a container's log, as plain text or, for a client that asks to speak WebSocket, as messages.
func (s *Server) logFromNode(w http.ResponseWriter, r *http.Request, node, path string, q url.Values) {
	if !wsstream.IsWebSocketRequest(r) {
		s.toNode(w, r, node, path, q, nil)
		return
	}
	rt, err := s.node(r.Context(), node)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ask, err := http.NewRequestWithContext(r.Context(), http.MethodGet, agentURL(node, path, q).String(), http.NoBody)
	if err != nil {
		s.fail(w, r, apierrors.NewBadRequest(err.Error()))
		return
	}
	resp, err := rt.RoundTrip(ask)
	if err != nil {
		s.fail(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s: %v", node, err)))
		return
	}
	defer resp.Body.Close()
	if err := s.agentError(resp); err != nil {
		s.fail(w, r, err)
		return
	}
	if resp.StatusCode != http.StatusOK {
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // whoever asked has gone
		return
	}
	websocket.Server{Handshake: pickLogProtocol, Handler: func(ws *websocket.Conn) { sendLog(ws, resp.Body) }}.ServeHTTP(w, r)
}

// pickLogProtocol settles on the first subprotocol that the client offers and we speak.
func pickLogProtocol(c *websocket.Config, _ *http.Request) error {
	if len(c.Protocol) == 0 {
		return nil
	}
	i := slices.IndexFunc(c.Protocol, func(p string) bool { return p == logBinary || p == logBase64 })
	if i < 0 {
		return fmt.Errorf("a log is sent as %s or %s, not as any of %q", logBinary, logBase64, c.Protocol)
	}
	c.Protocol = c.Protocol[i : i+1]
	return nil
}

// sendLog sends what comes from body until it ends or the client has gone.
func sendLog(ws *websocket.Conn, body io.ReadCloser) {
	text := slices.Contains(ws.Config().Protocol, logBase64)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, ws) // clients say nothing here, but that they go
		body.Close()
	}()
	defer func() { ws.Close(); <-gone }()
	buf := make([]byte, 16<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			var message any = buf[:n]
			if text {
				message = base64.StdEncoding.EncodeToString(buf[:n])
			}
			if websocket.Message.Send(ws, message) != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
