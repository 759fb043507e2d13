// Package logind hears from systemd-logind that the machine is about to shut down, and holds that up for a while. It speaks D-Bus;
// see https://systemd.io/INHIBITOR_LOCKS/.
package logind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	service   = "org.freedesktop.login1"
	path      = dbus.ObjectPath("/org/freedesktop/login1")
	manager   = service + ".Manager"
	reconnect = time.Second // after the bus or logind went away
	raising   = 5 * time.Second
)

// Watch is one hold on the machine's shutdown.
type Watch struct {
	// Address of the bus; "": the system's.
	Address string
	// Delay is how long a shutdown is to be held up. Where logind allows less, it is told to allow this by a file in ConfDir.
	Delay   time.Duration
	ConfDir string // "": /etc/systemd/logind.conf.d
	// Prepare is called when the machine is about to shut down; the shutdown goes on when it returns, or after Delay. Cancelled is
	// called when a shutdown was called off.
	Prepare   func(ctx context.Context)
	Cancelled func()
	Log       *slog.Logger
}

// ErrNone: this machine has no bus, so nobody tells of its shutdown.
var ErrNone = errors.New("no D-Bus on this machine")

// Run watches until ctx is done. It returns ErrNone at once where there is no bus; all else is tried again.
func (w *Watch) Run(ctx context.Context) error {
	for {
		err := w.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrNotExist):
			return ErrNone
		}
		w.Log.Warn("watching for the machine's shutdown", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnect):
		}
	}
}

func (w *Watch) session(ctx context.Context) error {
	conn, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	logind := conn.Object(service, path)
	if err := w.allow(ctx, conn, logind); err != nil {
		// What logind grants by itself is better than nothing.
		w.Log.Warn("a shutdown cannot be held up as long as wished", "delay", w.Delay, "err", err)
	}
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(manager), dbus.WithMatchMember("PrepareForShutdown"), dbus.WithMatchObjectPath(path))
	if err != nil {
		return fmt.Errorf("asking for the signal of shutdowns: %w", err)
	}
	signals := make(chan *dbus.Signal, 4)
	conn.Signal(signals)
	lock, err := inhibit(ctx, logind)
	if err != nil {
		return err
	}
	defer func() { lock.Close() }()
	for {
		var s *dbus.Signal
		select {
		case <-ctx.Done():
			return nil
		case s = <-signals:
		}
		if s == nil {
			return errors.New("the bus has closed the connection")
		}
		var begins bool
		if s.Name != manager+".PrepareForShutdown" || dbus.Store(s.Body, &begins) != nil {
			continue
		}
		if begins {
			w.Prepare(ctx)
			lock.Close()
			continue
		}
		w.Cancelled()
		lock.Close()
		if lock, err = inhibit(ctx, logind); err != nil {
			return err
		}
	}
}

func (w *Watch) connect(ctx context.Context) (*dbus.Conn, error) {
	if w.Address != "" {
		return dbus.Connect(w.Address, dbus.WithContext(ctx))
	}
	return dbus.ConnectSystemBus(dbus.WithContext(ctx))
}

// inhibit takes a lock that delays shutdowns until the file is closed.
func inhibit(ctx context.Context, logind dbus.BusObject) (*os.File, error) {
	var fd dbus.UnixFD
	err := logind.CallWithContext(ctx, manager+".Inhibit", 0, "shutdown", "mgr agent", "Pods need time to stop", "delay").Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("taking logind's inhibitor lock: %w", err)
	}
	unix.CloseOnExec(int(fd))
	return os.NewFile(uintptr(fd), "inhibitor"), nil
}

func granted(ctx context.Context, logind dbus.BusObject) (time.Duration, error) {
	var v dbus.Variant
	err := logind.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, manager, "InhibitDelayMaxUSec").Store(&v)
	if err != nil {
		return 0, fmt.Errorf("asking logind for InhibitDelayMaxUSec: %w", err)
	}
	us, ok := v.Value().(uint64)
	if !ok {
		return 0, fmt.Errorf("logind's InhibitDelayMaxUSec is a %T", v.Value())
	}
	return time.Duration(us) * time.Microsecond, nil
}

// allow sees to it that logind lets a shutdown be held up for Delay.
func (w *Watch) allow(ctx context.Context, conn *dbus.Conn, logind dbus.BusObject) error {
	have, err := granted(ctx, logind)
	if err != nil || have >= w.Delay {
		return err
	}
	dir := w.ConfDir
	if dir == "" {
		dir = "/etc/systemd/logind.conf.d"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("# Written by mgr agent: pods get this long when the machine shuts down.\n[Login]\nInhibitDelayMaxSec=%d\n", (w.Delay+time.Second-1)/time.Second)
	if err := os.WriteFile(filepath.Join(dir, "99-mgr.conf"), []byte(text), 0o644); err != nil {
		return err
	}
	systemd := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	err = systemd.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.KillUnit", 0, "systemd-logind.service", "all", int32(unix.SIGHUP)).Err
	if err != nil {
		return fmt.Errorf("having logind read its configuration again: %w", err)
	}
	return w.raised(ctx, logind)
}

func (w *Watch) raised(ctx context.Context, logind dbus.BusObject) error {
	ctx, cancel := context.WithTimeout(ctx, raising)
	defer cancel()
	for {
		have, err := granted(ctx, logind)
		if err != nil || have >= w.Delay {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("logind stays at %s; does another file in logind.conf.d set InhibitDelayMaxSec?", have)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
