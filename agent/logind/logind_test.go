package logind

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// bus starts a message bus of the test's own.
func bus(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "bus.conf")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=` + dir + `/bus</listen><policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("dbus-daemon", "--config-file="+conf, "--print-address", "--nofork")
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// login is a logind and a systemd that do as these do, as far as a Watch can see.
type login struct {
	mu    sync.Mutex
	conn  *dbus.Conn
	delay time.Duration
	conf  string
	locks chan *os.File // the other end of each lock
}

func (l *login) Inhibit(what, _, _, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || mode != "delay" {
		return 0, dbus.MakeFailedError(errors.New("what a lock is this"))
	}
	fds := make([]int, 2)
	if err := unix.Pipe2(fds, unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.locks <- os.NewFile(uintptr(fds[0]), "lock")
	go func() { // the copy in the message is made by then
		time.AfterFunc(50*time.Millisecond, func() { unix.Close(fds[1]) })
	}()
	return dbus.UnixFD(fds[1]), nil
}

func (l *login) Get(_, name string) (dbus.Variant, *dbus.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return dbus.MakeVariant(uint64(l.delay / time.Microsecond)), nil
}

func (l *login) KillUnit(string, string, int32) *dbus.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text, err := os.ReadFile(l.conf); err == nil && strings.Contains(string(text), "\nInhibitDelayMaxSec=30\n") {
		l.delay = 30 * time.Second
	}
	return nil
}

func (l *login) prepare(t *testing.T, begins bool) {
	t.Helper()
	if err := l.conn.Emit(path, manager+".PrepareForShutdown", begins); err != nil {
		t.Fatal(err)
	}
}

func newLogin(t *testing.T, address string) *login {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	l := &login{conn: conn, delay: 5 * time.Second, conf: filepath.Join(t.TempDir(), "99-mgr.conf"), locks: make(chan *os.File, 4)}
	for _, e := range []struct {
		path  dbus.ObjectPath
		iface string
	}{{path, manager}, {path, "org.freedesktop.DBus.Properties"}, {"/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"}} {
		if err := conn.Export(l, e.path, e.iface); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{service, "org.freedesktop.systemd1"} {
		if _, err := conn.RequestName(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// released waits until nobody holds the lock any more: its other end reads the end of the file.
func released(t *testing.T, lock *os.File) {
	t.Helper()
	lock.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := lock.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Fatalf("the lock is still held: %v", err)
	}
}

func TestWatch(t *testing.T) {
	address := bus(t)
	l := newLogin(t, address)
	prepared, finish, cancelled := make(chan struct{}), make(chan struct{}), make(chan struct{})
	w := &Watch{
		Address: address, Delay: 30 * time.Second, ConfDir: filepath.Dir(l.conf), Log: slog.New(slog.DiscardHandler),
		Prepare:   func(context.Context) { close(prepared); <-finish },
		Cancelled: func() { close(cancelled) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	lock := <-l.locks
	if l.delay != 30*time.Second {
		t.Errorf("logind holds a shutdown up for %s", l.delay)
	}
	l.prepare(t, true)
	<-prepared
	lock.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := lock.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("the lock was let go before the pods had ended: %v", err)
	}
	close(finish)
	released(t, lock)
	l.prepare(t, false)
	<-cancelled
	again := <-l.locks
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	released(t, again)
}

func TestNoBus(t *testing.T) {
	w := &Watch{Address: "unix:path=" + t.TempDir() + "/none", Log: slog.New(slog.DiscardHandler)}
	if err := w.Run(t.Context()); !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
}
