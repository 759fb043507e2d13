package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mgr/test/cluster"
)

// The pod listens a moment after its start, so its first readiness check fails.
const streamsPods = `
apiVersion: v1
kind: Pod
metadata: {name: streams, labels: {app: streams}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: mgr/busybox:1
    command: [sh, -c, "echo web > /tmp/index.html; sleep 0.3; httpd -h /tmp -p 8080; exec nc -ll -p 7000 -e cat"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 20}
---
apiVersion: v1
kind: Service
metadata: {name: streams}
spec: {selector: {app: streams}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "mgr/busybox:1", command: [sh], stdin: true, tty: true}
---
apiVersion: v1
kind: Pod
metadata: {name: lives}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "mgr/busybox:1", command: [sh, -c, "cat /proc/sys/kernel/random/uuid; exit 3"]}
`

// streams goes through everything that flows between a client and a container, with the protocols of today's kubectl.
func streams(t *testing.T, c *cluster.Cluster) {
	c.Must(t, "image", "import", cluster.Images(t, "busybox"))
	manifest := filepath.Join(t.TempDir(), "streams.yaml")
	write(t, manifest, streamsPods)
	c.Must(t, "apply", "-f", manifest)
	defer c.Must(t, "delete", "-f", manifest, "--now")
	c.Must(t, "wait", "pod/streams", "pod/shell", "--for", "condition=Ready", "--timeout", "15s")
	if out := c.Must(t, "get", "events", "--field-selector", "involvedObject.name=streams,reason=Unhealthy", "-o", "name"); out != "" {
		t.Errorf("a check in the first second made events: %s", out)
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T, *cluster.Cluster)
	}{
		{"Exec", streamsExec}, {"Terminal", streamsTerminal}, {"Attach", streamsAttach}, {"ClientGone", streamsClientGone},
		{"Copy", streamsCopy}, {"PortForward", streamsPortForward}, {"Logs", streamsLogs}, {"Proxy", streamsProxy},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c) })
	}
}

// command is `mgr args…` against the cluster, to be started in the background.
func command(ctx context.Context, t testing.TB, c *cluster.Cluster, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, cluster.Binary(t), args...)
	cmd.Env = append(os.Environ(), "MGRCONFIG="+c.Kubeconfig, "HOME="+filepath.Dir(c.Kubeconfig))
	return cmd
}

func streamsExec(t *testing.T, c *cluster.Cluster) {
	out := c.Mgr(t.Context(), "exec", "-v=8", "streams", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
	if out.Code != 7 || out.Stdout != "out\n" || !strings.Contains(out.Stderr, "\nerr\n") {
		t.Errorf("exec: %+v", out)
	}
	if !strings.Contains(out.Stderr, `protocol="v5.channel.k8s.io"`) || strings.Contains(out.Stderr, "fallback") {
		t.Errorf("exec does not use WebSockets: %s", out.Stderr)
	}
	data := random(t, 5<<20)
	cat := command(t.Context(), t, c, "exec", "-i", "streams", "--", "cat")
	cat.Stdin = bytes.NewReader(data) // its end ends cat
	if out := cluster.Run(cat); out.Code != 0 || out.Stdout != string(data) {
		t.Errorf("5 MB through cat: exit %d, %d bytes: %s", out.Code, len(out.Stdout), out.Stderr)
	}
	for _, bad := range []struct {
		args []string
		says string
	}{
		{[]string{"streams", "--", "/none"}, `exec: "/none"`},
		{[]string{"streams", "-c", "other", "--", "ls"}, "container other is not valid for pod streams"},
		{[]string{"nobody", "--", "ls"}, `pods "nobody" not found`},
	} {
		if out := c.Mgr(t.Context(), append([]string{"exec"}, bad.args...)...); out.Code != 1 || !strings.Contains(out.Stderr, bad.says) {
			t.Errorf("exec %v: %+v", bad.args, out)
		}
	}
}

func streamsTerminal(t *testing.T, c *cluster.Cluster) {
	cmd := command(t.Context(), t, c, "exec", "-it", "streams", "--", "sh")
	tty := terminal(t, cmd, 40, 100)
	tty.say("stty size; echo end\n")
	tty.await("40 100")
	tty.resize(30, 80)
	tty.say("while test \"$(stty size)\" != '30 80'; do sleep 0.1; done; echo re''sized\n")
	tty.await("resized")
	tty.say("exit 5\n")
	tty.await("exit code 5")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Errorf("exec -it: %v", err)
	}
}

func streamsAttach(t *testing.T, c *cluster.Cluster) {
	// Late: the shell has been running for long. Twice: the first client's going leaves it alone.
	for _, answer := range []string{"42", "43"} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := command(ctx, t, c, "attach", "-it", "shell")
		tty := terminal(t, cmd, 24, 80)
		tty.await("pressing enter")
		tty.say("echo =$((" + answer + "+100))\n")
		tty.await("=1" + answer)
		cancel()
		_ = cmd.Wait() // it was killed
	}
	if out := c.Must(t, "logs", "shell"); !strings.Contains(out, "=142") || !strings.Contains(out, "=143") {
		t.Errorf("logs: %q", out)
	}
}

// streamsClientGone: what a vanished client had started ends, unless it ignores the hang-up.
func streamsClientGone(t *testing.T, c *cluster.Cluster) {
	for _, script := range []string{
		"echo up; exec sleep 7771",
		"echo up; while :; do echo 7772; sleep 0.1; done",
		"trap '' HUP; echo up; exec sleep 7773",
	} {
		cmd := command(t.Context(), t, c, "exec", "streams", "--", "sh", "-c", script)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
			t.Fatalf("%q: %v", line, err)
		}
		kill(t, cmd.Process.Pid)
		_ = cmd.Wait() // it was killed
	}
	cluster.Eventually(t, 10*time.Second, "the commands ended", func(ctx context.Context) error {
		out := c.Mgr(ctx, "exec", "streams", "--", "ps")
		if strings.Contains(out.Stdout, "7771") || strings.Contains(out.Stdout, "7772") {
			return errors.New(out.Stdout)
		}
		return expect(out, "7773")
	})
}

func streamsCopy(t *testing.T, c *cluster.Cluster) {
	dir := t.TempDir()
	data := random(t, 3<<20)
	write(t, filepath.Join(dir, "there"), string(data))
	c.Must(t, "cp", filepath.Join(dir, "there"), "streams:/tmp/copy")
	c.Must(t, "cp", "streams:/tmp/copy", filepath.Join(dir, "back"))
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back: %v", len(back), err)
	}
}

func streamsPortForward(t *testing.T, c *cluster.Cluster) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := command(ctx, t, c, "port-forward", "pod/streams", ":7000", "-v=6")
	var says bytes.Buffer
	cmd.Stderr = &says
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	found := regexp.MustCompile(`from (127\.0\.0\.1:\d+)`).FindStringSubmatch(line)
	if found == nil {
		t.Fatalf("port-forward says %q, %v, %s", line, err, says.String())
	}
	var drained, wg sync.WaitGroup
	drained.Go(func() { _, _ = io.Copy(io.Discard, lines) })
	for i := range 4 {
		wg.Go(func() {
			if err := echo(found[1], random(t, (i+1)<<20)); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	cancel()
	drained.Wait()
	_ = cmd.Wait() // it was killed
	if s := says.String(); !strings.Contains(s, `"Negotiation complete"`) || strings.Contains(s, "fallback") {
		t.Errorf("port-forward does not use WebSockets: %s", s)
	}
}

// echo sends data, closes its half, and expects the same data and the end.
func echo(addr string, data []byte) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	back, err := io.ReadAll(conn)
	if err = errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(back, data) {
		return fmt.Errorf("%d of %d bytes came back", len(back), len(data))
	}
	return nil
}

func streamsLogs(t *testing.T, c *cluster.Cluster) {
	// 25 MB: the log is rotated twice while it is followed.
	const count = 250_000
	c.Must(t, "run", "chatty", "--image", "mgr/busybox:1", "--restart", "Never", "--", "sh", "-c",
		fmt.Sprintf("sleep 1; i=0; while [ $i -lt %d ]; do i=$((i+1)); printf '%%099d\\n' $i; done", count))
	defer c.Must(t, "delete", "pod", "chatty", "--now")
	c.Must(t, "wait", "pod/chatty", "--for", "condition=Ready", "--timeout", "15s")
	out := c.Mgr(t.Context(), "logs", "-f", "chatty")
	lines := strings.Split(out.Stdout, "\n")
	if out.Code != 0 || len(lines) != count+1 {
		t.Fatalf("logs -f: exit %d, %d lines: %s", out.Code, len(lines), out.Stderr)
	}
	for i, line := range lines[:count] {
		if want := fmt.Sprintf("%099d", i+1); line != want {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	cluster.Eventually(t, 30*time.Second, "the crashing pod's last life shows", func(ctx context.Context) error {
		now, before := c.Mgr(ctx, "logs", "lives"), c.Mgr(ctx, "logs", "lives", "--previous")
		if now.Stdout == "" || now.Stdout != before.Stdout {
			return fmt.Errorf("%+v, previous %+v", now, before)
		}
		return nil // both are of the life that has just ended: the next one waits
	})
}

func streamsProxy(t *testing.T, c *cluster.Cluster) {
	const at = "/api/v1/namespaces/default/"
	node := c.Must(t, "get", "pod", "streams", "-o", "jsonpath={.spec.nodeName}")
	for path, want := range map[string]string{
		at + "pods/streams:8080/proxy/index.html":        "web\n",
		at + "pods/http:streams:8080/proxy/":             "web\n",
		at + "services/streams:http/proxy/index.html":    "web\n",
		at + "services/streams:80/proxy/":                "web\n",
		"/api/v1/nodes/" + node + "/proxy/healthz":       "ok",
		"/api/v1/nodes/" + node + "/proxy/pods":          `"name":"streams"`,
		"/api/v1/nodes/" + node + ":10250/proxy/healthz": "ok",
	} {
		if err := expect(c.Mgr(t.Context(), "get", "--raw", path), want); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if out := c.Mgr(t.Context(), "get", "--raw", at+"pods/streams:9/proxy/"); out.Code != 1 || !strings.Contains(out.Stderr, "error trying to reach service") {
		t.Errorf("a port nobody listens on: %+v", out)
	}
}

func random(t testing.TB, size int) []byte {
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return data
}

// pty is a terminal in which a command runs.
type pty struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	chunks chan []byte
	seen   bytes.Buffer
}

// terminal starts cmd in a terminal of its own.
func terminal(t *testing.T, cmd *exec.Cmd, rows, columns uint16) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	number := -1
	err = control(master, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	p := &pty{t: t, master: master, cmd: cmd, chunks: make(chan []byte, 100)}
	p.resize(rows, columns)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(p.chunks)
		for {
			buf := make([]byte, 4096)
			n, err := master.Read(buf)
			if err != nil {
				return // the command has ended
			}
			p.chunks <- buf[:n]
		}
	})
	t.Cleanup(func() {
		master.Close()
		for range p.chunks { // so that the reader does not wait
		}
		reader.Wait()
	})
	return p
}

func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	return errors.Join(raw.Control(func(fd uintptr) { result = do(int(fd)) }), result)
}

func (p *pty) resize(rows, columns uint16) {
	p.t.Helper()
	err := control(p.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pty) say(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.master, text); err != nil {
		p.t.Fatal(err)
	}
}

// await waits until the terminal shows text.
func (p *pty) await(text string) {
	p.t.Helper()
	timeout := time.After(20 * time.Second)
	for !strings.Contains(p.seen.String(), text) {
		select {
		case chunk, ok := <-p.chunks:
			if !ok {
				p.t.Fatalf("the terminal ended without %q: %q", text, p.seen.String())
			}
			p.seen.Write(chunk)
		case <-timeout:
			p.t.Fatalf("the terminal does not show %q: %q", text, p.seen.String())
		}
	}
}
