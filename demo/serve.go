package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// server counts its requests and can be told not to be ready.
type server struct {
	host     string
	started  time.Time
	requests atomic.Int64
	unready  atomic.Bool
}

// serve answers on the address until it is told to end; then it finishes what it has begun.
func serve(args []string) int {
	address := ":8080"
	if port := os.Getenv("PORT"); port != "" {
		address = ":" + port
	}
	if len(args) > 0 {
		address = args[0]
	}
	host, err := os.Hostname()
	if err != nil {
		return fail(err)
	}
	s := &server{host: host, started: time.Now()}
	h := &http.Server{Addr: address, Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		ended <- h.Shutdown(grace)
	}()
	fmt.Printf("%s serves on %s\n", host, address)
	if err := h.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fail(err)
	}
	if err := <-ended; err != nil {
		return fail(err)
	}
	fmt.Printf("%s ends after %d requests\n", host, s.requests.Load())
	return 0
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", s.who)
	mux.HandleFunc("GET /hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, s.host) })
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		env := os.Environ()
		slices.Sort(env)
		fmt.Fprintln(w, strings.Join(env, "\n"))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("PUT /readyz", s.setReady)
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("POST /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		fmt.Printf("%s was asked to exit with %d\n", s.host, code)
		os.Exit(code)
	})
	return mux
}

// who says where the request has come to. The downward API gives the variables; what is not given is not shown.
func (s *server) who(w http.ResponseWriter, r *http.Request) {
	n := s.requests.Add(1)
	fmt.Fprintf(w, "Hello from %s", s.host)
	for _, v := range []struct{ label, name string }{
		{"pod", "POD_NAME"}, {"namespace", "POD_NAMESPACE"}, {"address", "POD_IP"}, {"node", "NODE_NAME"},
	} {
		if value := os.Getenv(v.name); value != "" {
			fmt.Fprintf(w, ", %s %s", v.label, value)
		}
	}
	fmt.Fprintf(w, ": request %d in %s\n", n, time.Since(s.started).Round(time.Second))
	fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.unready.Load() {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (s *server) setReady(w http.ResponseWriter, r *http.Request) {
	ready, err := strconv.ParseBool(r.URL.Query().Get("ready"))
	if err != nil {
		http.Error(w, "say ready=true or ready=false", http.StatusBadRequest)
		return
	}
	s.unready.Store(!ready)
	fmt.Fprintln(w, "ready:", ready)
}
