package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/yamux"
)

// Waits between attempts of Keep to reach a master.
const (
	retryMin = 200 * time.Millisecond
	retryMax = 10 * time.Second
)

// Keep holds a tunnel to one master open until ctx is done: dial, serve h on it, and dial again when it ends.
func Keep(ctx context.Context, dial func(ctx context.Context) (net.Conn, error), h http.Handler, log *slog.Logger) {
	retry := retryMin
	for {
		began := time.Now()
		conn, err := dial(ctx)
		if err == nil {
			err = Serve(ctx, conn, h)
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > retryMax {
			retry = retryMin // it was a good connection
		}
		wait := retry/2 + rand.N(retry) // all agents lose a master at the same moment
		log.Warn("no tunnel to the master; trying again", "in", wait.Round(time.Millisecond), "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		retry = min(2*retry, retryMax)
	}
}

// Serve is the agent's end of a tunnel: it serves h on the streams that the master opens until the connection ends (an
// error) or ctx is done (nil). It closes conn.
func Serve(ctx context.Context, conn net.Conn, h http.Handler) error {
	session, err := yamux.Server(conn, sessionConfig())
	if err != nil {
		conn.Close()
		return fmt.Errorf("opening the tunnel: %w", err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: openTimeout, IdleTimeout: 2 * idleStream}
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	err = srv.Serve(session)
	_ = srv.Close()
	session.Close()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil || errors.Is(err, net.ErrClosed) {
		err = yamux.ErrSessionShutdown
	}
	return fmt.Errorf("tunnel to %s ended: %w", conn.RemoteAddr(), err)
}
