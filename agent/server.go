package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/gorilla/mux"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"

	"mgr/agent/logs"
	"mgr/tunnel/profiles"
)

// Handler serves the masters: kubelet's API, and a few paths of our own. It must be reachable through the tunnel only; it
// asks nobody who they are.
//
//	GET  /healthz /pods /stats/summary /images
//	     /metrics /metrics/resource /metrics/cadvisor /metrics/probes
//	     /usage/node /usage/pods   what metrics.k8s.io is made of
//	GET  /containerLogs/{namespace}/{pod}/{container}
//	     /exec/{namespace}/{pod}[/{uid}]/{container}, /attach/…, /run/…, /portForward/{namespace}/{pod}[/{uid}]
//	POST /images/import     an OCI or docker archive → JSON list of names
//	     /shutdown          end all pods as if the machine went down, answer when they have (POST); call it off (DELETE)
//	     /podProxy/{ip:port}/…   HTTP to a pod, dialled from this node
//	     /debug/pprof/…     profiles of the agent's process
func (a *Agent) Handler() http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	r.HandleFunc("/pods", a.servePods)
	r.HandleFunc("/stats/summary", a.serveStats)
	r.HandleFunc("/metrics", a.serveMetrics)
	r.HandleFunc("/metrics/resource", a.serveResourceMetrics)
	r.HandleFunc("/metrics/cadvisor", a.serveAdvisorMetrics)
	r.HandleFunc("/metrics/probes", a.serveProbeMetrics)
	r.HandleFunc("/usage/node", a.serveNodeUsage)
	r.HandleFunc("/usage/pods", a.servePodUsage)
	r.HandleFunc("/images", a.serveImages).Methods(http.MethodGet)
	r.HandleFunc("/shutdown", a.serveShutdown).Methods(http.MethodPost, http.MethodDelete)
	r.HandleFunc("/images/import", a.serveImport).Methods(http.MethodPost)
	r.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", a.serveLogs).Methods(http.MethodGet)
	for _, p := range []struct {
		path  string
		serve http.HandlerFunc
	}{{"/exec", a.serveExec}, {"/attach", a.serveAttach}, {"/run", a.serveRun}} {
		r.HandleFunc(p.path+"/{namespace}/{pod}/{container}", p.serve)
		r.HandleFunc(p.path+"/{namespace}/{pod}/{uid}/{container}", p.serve)
	}
	r.HandleFunc("/portForward/{namespace}/{pod}", a.servePortForward)
	r.HandleFunc("/portForward/{namespace}/{pod}/{uid}", a.servePortForward)
	r.PathPrefix("/podProxy/{addr}").HandlerFunc(a.servePodProxy)
	profiles.Route(r)
	return r
}

// podOf finds the request's pod, or answers that there is none.
func (a *Agent) podOf(w http.ResponseWriter, r *http.Request) (shown, bool) {
	v := mux.Vars(r)
	worker := a.find(v["namespace"], v["pod"], v["uid"])
	if worker == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist", v["pod"]+"_"+v["namespace"]), http.StatusNotFound)
		return shown{}, false
	}
	return worker.look(), true
}

func hasContainer(pod *v1.Pod, name string) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	pod, ok := a.podOf(w, r)
	if !ok {
		return
	}
	name := mux.Vars(r)["container"]
	if !hasContainer(pod.pod, name) {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, pod.pod.Name), http.StatusNotFound)
		return
	}
	o, previous, err := logOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	c, ok := pod.containers[name]
	if previous {
		if c, ok = pod.previous[name]; !ok {
			http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", name, pod.pod.Name), http.StatusBadRequest)
			return
		}
	}
	if !ok {
		http.Error(w, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, pod.pod.Name, a.waitingReason(pod, name)), http.StatusBadRequest)
		return
	}
	path := c.LogPath
	if _, err := os.Stat(path); err != nil {
		http.Error(w, fmt.Sprintf("the log of container %q is not there: %v", name, err), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	flusher := http.NewResponseController(w)
	ended := func() bool { return !a.isRunning(pod.pod, name, c.ID) }
	err = logs.Read(r.Context(), path, w, o, ended, func() { _ = flusher.Flush() })
	if err != nil && r.Context().Err() == nil {
		a.log.Warn("serving a log", "pod", pod.pod.Name, "container", name, "err", err)
	}
}

func (a *Agent) waitingReason(s shown, name string) string {
	for _, list := range [][]v1.ContainerStatus{s.pod.Status.InitContainerStatuses, s.pod.Status.ContainerStatuses} {
		for _, c := range list {
			if c.Name == name && c.State.Waiting != nil {
				if c.State.Waiting.Message != "" {
					return c.State.Waiting.Message
				}
				return c.State.Waiting.Reason
			}
		}
	}
	return "ContainerCreating"
}

// isRunning: this very instance has not ended.
func (a *Agent) isRunning(pod *v1.Pod, name, id string) bool {
	w := a.worker(string(pod.UID))
	if w == nil {
		return false
	}
	c, ok := w.look().containers[name]
	return ok && c.ID == id && c.State == ContainerRunning
}

func logOptions(r *http.Request) (o logs.Options, previous bool, err error) {
	q := r.URL.Query()
	flag := func(name string) bool { b, e := strconv.ParseBool(q.Get(name)); return e == nil && b }
	number := func(name string) (*int64, error) {
		s := q.Get(name)
		if s == "" {
			return nil, nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s=%q: it must be a number that is not negative", name, s)
		}
		return &n, nil
	}
	o.Follow, o.Timestamps, previous = flag("follow"), flag("timestamps"), flag("previous")
	if s := q.Get("tailLines"); s != "all" {
		if o.Tail, err = number("tailLines"); err != nil {
			return o, previous, err
		}
	}
	if o.LimitBytes, err = number("limitBytes"); err != nil {
		return o, previous, err
	}
	since, err := number("sinceSeconds")
	if err != nil {
		return o, previous, err
	}
	if since != nil {
		o.Since = time.Now().Add(-time.Duration(*since) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		if o.Since, err = time.Parse(time.RFC3339, s); err != nil {
			return o, previous, fmt.Errorf("sinceTime=%q: %w", s, err)
		}
	}
	switch q.Get("stream") {
	case v1.LogStreamStdout:
		o.Stdout = true
	case v1.LogStreamStderr:
		o.Stderr = true
	}
	return o, previous, nil
}

func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := &v1.PodList{}
	for _, worker := range a.snapshot() {
		list.Items = append(list.Items, *worker.look().pod)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := scheme.Codecs.LegacyCodec(v1.SchemeGroupVersion).Encode(list, w); err != nil {
		a.log.Warn("serving the pods", "err", err)
	}
}

func (a *Agent) serveImages(w http.ResponseWriter, r *http.Request) {
	images, err := a.runtime.Images(r.Context())
	a.answer(w, images, err)
}

func (a *Agent) serveImport(w http.ResponseWriter, r *http.Request) {
	names, err := a.runtime.Import(r.Context(), r.Body)
	a.images.refresh(r.Context())
	a.answer(w, names, err)
}

func (a *Agent) answer(w http.ResponseWriter, o any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(o); err != nil {
		a.log.Warn("answering a master", "err", err)
	}
}

// servePodProxy forwards HTTP to an address of the pod network, which masters cannot reach by themselves.
func (a *Agent) servePodProxy(w http.ResponseWriter, r *http.Request) {
	addr := mux.Vars(r)["addr"]
	target, err := netip.ParseAddrPort(addr)
	if err != nil || !a.servesAddress(target.Addr()) {
		http.Error(w, fmt.Sprintf("%s is not an address of a pod on this node", addr), http.StatusBadRequest)
		return
	}
	prefix := "/podProxy/" + addr
	proxy := &httputil.ReverseProxy{
		Transport:     podTransport,
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", target.String()
			if p.In.Header.Get("X-Mgr-Scheme") == "https" {
				p.Out.URL.Scheme = "https"
			}
			p.Out.Header.Del("X-Mgr-Scheme")
			p.Out.URL.Path = trimPrefix(p.In.URL.Path, prefix)
			p.Out.URL.RawPath = trimPrefix(p.In.URL.EscapedPath(), prefix)
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.Out.Host = p.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			status := apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)).Status()
			status.Kind, status.APIVersion = "Status", "v1"
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(int(status.Code))
			if err := json.NewEncoder(w).Encode(status); err != nil {
				a.log.Warn("answering a master", "err", err)
			}
		},
	}
	proxy.ServeHTTP(w, r)
}

func trimPrefix(path, prefix string) string {
	if path = path[min(len(prefix), len(path)):]; path == "" {
		return "/"
	}
	return path
}

// servesAddress: it is one of a pod here, or the node's own (host network).
func (a *Agent) servesAddress(ip netip.Addr) bool {
	for _, own := range a.cfg.NodeIPs {
		if own == ip {
			return true
		}
	}
	for _, w := range a.snapshot() {
		for _, own := range w.look().ips {
			if own == ip {
				return true
			}
		}
	}
	return false
}

var errNotRunning = errors.New("container not found")

// running finds the running instance of the request's container.
func (s shown) running(name string) (Container, error) {
	c, ok := s.containers[name]
	if !ok || c.State != ContainerRunning {
		return c, fmt.Errorf("%w (%q)", errNotRunning, name)
	}
	return c, nil
}

// dialPod connects to a port inside the pod: its loopback first, as programs often listen there only.
func (a *Agent) dialPod(ctx context.Context, s shown, port int32) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	addr := net.JoinHostPort("localhost", strconv.Itoa(int(port)))
	if s.netns == "" {
		return d.DialContext(ctx, "tcp", addr)
	}
	return dialIn(ctx, s.netns, addr, &d)
}
