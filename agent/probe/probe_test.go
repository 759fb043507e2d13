package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func target(port int32) Target {
	return Target{
		Container: &v1.Container{Name: "c", Ports: []v1.ContainerPort{{Name: "web", ContainerPort: port}}},
		IP:        func() string { return "127.0.0.1" },
	}
}

func portOfURL(t *testing.T, url string) int32 {
	t.Helper()
	a, err := netip.ParseAddrPort(strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	return int32(a.Port())
}

func TestHTTP(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(500)
		case "/here":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	for _, c := range []struct {
		name string
		get  v1.HTTPGetAction
		url  string
		ok   bool
		says string
	}{
		{"good", v1.HTTPGetAction{Path: "/", Port: intstr.FromString("web")}, plain.URL, true, ""},
		{"bad", v1.HTTPGetAction{Path: "/bad", Port: intstr.FromString("web")}, plain.URL, false, "HTTP probe failed with statuscode: 500"},
		{"TLS without a trusted certificate", v1.HTTPGetAction{Path: "/", Port: intstr.FromString("web"), Scheme: v1.URISchemeHTTPS}, secure.URL, true, ""},
		{"redirect to itself is followed", v1.HTTPGetAction{Path: "/here", Port: intstr.FromString("web")}, plain.URL, false, "HTTP probe failed with statuscode: 500"},
		{"too slow", v1.HTTPGetAction{Path: "/slow", Port: intstr.FromString("web")}, plain.URL, false, "context deadline exceeded"},
		{"nobody", v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(1)}, plain.URL, false, "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &c.get}, TimeoutSeconds: 1}
			ok, message, err := Check(t.Context(), p, target(portOfURL(t, c.url)))
			if err != nil || (ok != Failure) != c.ok || !strings.Contains(message, c.says) {
				t.Errorf("%v %q %v, want %v %q", ok, message, err, c.ok, c.says)
			}
		})
	}
}

func TestRedirectsElsewhereAreWarnings(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	}))
	defer server.Close()
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromString("web")}}}
	result, message, err := Check(t.Context(), p, target(portOfURL(t, server.URL)))
	if err != nil || result != Warning || !strings.HasPrefix(message, "Probe terminated redirects, Response body: <a href") {
		t.Errorf("%v %q %v", result, message, err)
	}
}

func TestRequest(t *testing.T) {
	header := func(pairs ...string) (out []v1.HTTPHeader) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, v1.HTTPHeader{Name: pairs[i], Value: pairs[i+1]})
		}
		return out
	}
	for _, c := range []struct {
		get  v1.HTTPGetAction
		want string
	}{
		{v1.HTTPGetAction{Path: "/q?a=b"}, "http://127.0.0.1:80/q?a=b agent=[kube-probe/1.37] accept=[*/*] host= x=[]"},
		{v1.HTTPGetAction{Path: "health", Scheme: "HTTPS", Host: "example.org"}, "https://example.org:80/health agent=[kube-probe/1.37] accept=[*/*] host= x=[]"},
		{v1.HTTPGetAction{HTTPHeaders: header("host", "me.example", "X-A", "1", "x-a", "2")}, "http://127.0.0.1:80 agent=[kube-probe/1.37] accept=[*/*] host=me.example x=[1 2]"},
		{v1.HTTPGetAction{HTTPHeaders: header("User-Agent", "", "Accept", "")}, "http://127.0.0.1:80 agent=[] accept=[] host= x=[]"},
		{v1.HTTPGetAction{HTTPHeaders: header("user-agent", "me", "accept", "text/html")}, "http://127.0.0.1:80 agent=[me] accept=[text/html] host= x=[]"},
	} {
		c.get.Port = intstr.FromInt32(80)
		r, err := Request(t.Context(), &c.get, target(80), "probe")
		if err != nil {
			t.Errorf("%+v: %v", c.get, err)
			continue
		}
		got := fmt.Sprintf("%s agent=%v accept=%v host=%s x=%v", r.URL, r.Header["User-Agent"], r.Header["Accept"], strings.TrimPrefix(r.Host, r.URL.Host), r.Header["X-A"])
		if got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("web")}}}
	to := target(int32(l.Addr().(*net.TCPAddr).Port))
	if ok, m, err := Check(t.Context(), p, to); ok != Success || err != nil {
		t.Errorf("listening: %v %q %v", ok, m, err)
	}
	l.Close()
	if ok, m, err := Check(t.Context(), p, to); ok != Failure || err != nil || !strings.Contains(m, "connection refused") {
		t.Errorf("closed: %v %q %v", ok, m, err)
	}
	p.TCPSocket.Port = intstr.FromString("nope")
	if _, _, err := Check(t.Context(), p, to); err == nil {
		t.Error("an unknown port name was accepted")
	}
}

func TestExec(t *testing.T) {
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check", "$(WHAT)"}}}, TimeoutSeconds: 1}
	for _, c := range []struct {
		name string
		exec func(context.Context, []string) (string, int, error)
		ok   bool
		says string
		err  bool
	}{
		{"good", func(context.Context, []string) (string, int, error) { return "fine", 0, nil }, true, "fine", false},
		{"bad", func(context.Context, []string) (string, int, error) { return "sick", 3, nil }, false, "sick", false},
		{"broken", func(context.Context, []string) (string, int, error) { return "", 0, errors.New("no such command") }, false, "", true},
		{"slow", func(ctx context.Context, _ []string) (string, int, error) { <-ctx.Done(); return "", 0, ctx.Err() }, false, `command timed out: "check it" timed out after 1s`, false},
	} {
		to := target(1)
		to.Container.Env = []v1.EnvVar{{Name: "WHAT", Value: "it"}}
		to.Exec = c.exec
		ok, message, err := Check(t.Context(), p, to)
		if (ok == Success) != c.ok || message != c.says || (err != nil) != c.err {
			t.Errorf("%s: %v %q %v", c.name, ok, message, err)
		}
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, status := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, status)
	go server.Serve(l)
	defer server.Stop()
	port := int32(l.Addr().(*net.TCPAddr).Port)
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: port, Service: ptr.To("db")}}}
	status.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_SERVING)
	if ok, m, err := Check(t.Context(), p, target(port)); ok != Success || err != nil {
		t.Errorf("serving: %v %q %v", ok, m, err)
	}
	status.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if ok, m, err := Check(t.Context(), p, target(port)); ok != Failure || err != nil || !strings.Contains(m, `service unhealthy (responded with "NOT_SERVING")`) {
		t.Errorf("not serving: %v %q %v", ok, m, err)
	}
	p.GRPC.Port = 1
	if ok, m, err := Check(t.Context(), p, target(1)); ok != Failure || err != nil || !strings.Contains(m, "within 1s") {
		t.Errorf("nobody: %v %q %v", ok, m, err)
	}
}

// watch runs a loop in virtual time over a script of results ('+', '-', '?' for an error; the last repeats) and notes what
// it reports, with the second.
func watch(t *testing.T, l *Loop, script string, lasts time.Duration) (reports []string, unhealthy []string) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		l.Started = begun
		n := 0
		l.Probe.Exec = &v1.ExecAction{}
		l.Target = target(1)
		l.Target.Exec = func(context.Context, []string) (string, int, error) {
			c := script[min(n, len(script)-1)]
			n++
			switch c {
			case '+':
				return "", 0, nil
			case '?':
				return "", 0, errors.New("broken")
			}
			return "bad", 1, nil
		}
		at := func() string { return time.Since(begun).String() }
		l.Report = func(ok bool) {
			if ok {
				reports = append(reports, "+"+at())
			} else {
				reports = append(reports, "-"+at())
			}
		}
		l.Event = func(_, m string) { unhealthy = append(unhealthy, m) }
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		l.Run(ctx)
		if ctx.Err() == nil {
			reports = append(reports, "end"+at())
		}
	})
	return reports, unhealthy
}

func TestLoop(t *testing.T) {
	for _, c := range []struct {
		name   string
		kind   Kind
		probe  v1.Probe
		script string
		want   string
	}{
		{"readiness at once", Readiness, v1.Probe{PeriodSeconds: 10}, "+", "+0s"},
		{"readiness after its delay", Readiness, v1.Probe{PeriodSeconds: 10, InitialDelaySeconds: 5}, "+", "+5s"},
		{"readiness needs two in a row", Readiness, v1.Probe{PeriodSeconds: 1, SuccessThreshold: 2, FailureThreshold: 3}, "+-++", "+3s"},
		{"readiness comes and goes", Readiness, v1.Probe{PeriodSeconds: 1, FailureThreshold: 2}, "+-+--+", "+0s -4s +5s"},
		{"readiness soon after a start", Readiness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 3}, "--+", "+150ms"},
		{"readiness is asked again up to the period", Readiness, v1.Probe{PeriodSeconds: 3, FailureThreshold: 3}, "--------+", "+6s"},
		{"readiness once reached is asked each period", Readiness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 1}, "-+-+", "-0s +50ms -10s +20s"},
		{"extra checks are no failures", Readiness, v1.Probe{PeriodSeconds: 3, FailureThreshold: 2}, "-", "-3s"},
		{"liveness fails at the third", Liveness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 3}, "+--+---", "+0s -1m0s end1m0s"},
		{"liveness does not count what cannot be checked", Liveness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 2}, "-???-", "-20s end20s"},
		{"readiness stands while it cannot be checked", Readiness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 1}, "+???-", "+0s -20s"},
		{"startup passes and ends", Startup, v1.Probe{PeriodSeconds: 1, FailureThreshold: 30}, "---+", "+3s end3s"},
		{"startup gives up", Startup, v1.Probe{PeriodSeconds: 1, FailureThreshold: 3}, "-", "-2s end2s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := watch(t, &Loop{Kind: c.kind, Probe: &c.probe}, c.script, 2*time.Minute)
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func TestUnhealthyTexts(t *testing.T) {
	// The first failure comes when the program has hardly started.
	_, got := watch(t, &Loop{Kind: Liveness, Probe: &v1.Probe{PeriodSeconds: 1, FailureThreshold: 3}}, "--???", 3500*time.Millisecond)
	want := []string{"Liveness probe failed: bad", "Liveness probe errored and resulted in unknown state: broken", "Liveness probe errored and resulted in unknown state: broken"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	_, got = watch(t, &Loop{Kind: Readiness, Probe: &v1.Probe{PeriodSeconds: 5}}, "-", 11*time.Second)
	want = []string{"Readiness probe failed: bad", "Readiness probe failed: bad"} // at 5 s and 10 s, not at the extra checks
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
