package raftnode

import (
	"context"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hclogger lets hashicorp/raft log through slog. What raft tells at the level of information is for debugging here: chronicle.go
// tells the same in fewer words.
type hclogger struct {
	log  *slog.Logger
	name string
	args []any
}

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace, hclog.Debug, hclog.Info:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelInfo
}

func (h *hclogger) enabled(l slog.Level) bool { return h.log.Enabled(context.Background(), l) }

func (h *hclogger) Log(level hclog.Level, msg string, args ...any) {
	h.log.Log(context.Background(), slogLevel(level), msg, args...)
}
func (h *hclogger) Trace(msg string, args ...any) { h.log.Debug(msg, args...) }
func (h *hclogger) Debug(msg string, args ...any) { h.log.Debug(msg, args...) }
func (h *hclogger) Info(msg string, args ...any)  { h.log.Debug(msg, args...) }
func (h *hclogger) Warn(msg string, args ...any)  { h.log.Warn(msg, args...) }

func (h *hclogger) Error(msg string, args ...any) {
	level := slog.LevelError
	switch msg {
	case "failed to heartbeat to", "failed to appendEntries to", "failed to pipeline appendEntries", "failed to start pipeline replication to",
		"failed to make requestVote RPC", "failed to make requestPreVote RPC", "failed to decode incoming command", "failed to accept connection":
		// Of a peer that does not answer, some times each second. The leader also warns of it ("failed to contact"), and `mgr members`
		// shows it.
		level = slog.LevelDebug
	}
	h.log.Log(context.Background(), level, msg, args...)
}

func (h *hclogger) IsTrace() bool         { return false }
func (h *hclogger) IsDebug() bool         { return h.enabled(slog.LevelDebug) }
func (h *hclogger) IsInfo() bool          { return h.enabled(slog.LevelDebug) }
func (h *hclogger) IsWarn() bool          { return h.enabled(slog.LevelWarn) }
func (h *hclogger) IsError() bool         { return h.enabled(slog.LevelError) }
func (h *hclogger) ImpliedArgs() []any    { return h.args }
func (h *hclogger) Name() string          { return h.name }
func (h *hclogger) SetLevel(hclog.Level)  {}
func (h *hclogger) GetLevel() hclog.Level { return hclog.NoLevel }

func (h *hclogger) With(args ...any) hclog.Logger {
	all := append(append([]any(nil), h.args...), args...)
	return &hclogger{log: h.log.With(args...), name: h.name, args: all}
}

func (h *hclogger) Named(name string) hclog.Logger { return h.ResetNamed(name) }
func (h *hclogger) ResetNamed(name string) hclog.Logger {
	return &hclogger{log: h.log, name: name, args: h.args}
}

func (h *hclogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(h.log.Handler(), slog.LevelInfo)
}

func (h *hclogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return h.StandardLogger(o).Writer()
}
