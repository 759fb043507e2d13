package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Streams and proxies end at the agent of a node, which is reached through the connection that it keeps to this master:
//
//	/containerLogs/{namespace}/{pod}/{container}
//	/exec/{namespace}/{pod}/{container}
//	/attach/{namespace}/{pod}/{container}
//	/portForward/{namespace}/{pod}
//	/podProxy/{ip}:{port}/{path}
//
// and, for nodes/proxy, any path.

// connect returns the handlers of a subresource that is a connection to an agent.
func (s *Server) connect(e *endpoint, sub string) map[string]http.Handler {
	both := func(h http.HandlerFunc) map[string]http.Handler {
		return map[string]http.Handler{"get": h, "create": h}
	}
	switch e.kind.Resource + "/" + sub {
	case "pods/log":
		return map[string]http.Handler{"get": http.HandlerFunc(s.serveLog)}
	case "pods/exec":
		return both(s.serveExec)
	case "pods/attach":
		return both(s.serveAttach)
	case "pods/portforward":
		return both(s.servePortForward)
	case "pods/proxy":
		return map[string]http.Handler{"*": http.HandlerFunc(s.servePodProxy)}
	case "services/proxy":
		return map[string]http.Handler{"*": http.HandlerFunc(s.serveServiceProxy)}
	case "nodes/proxy":
		return map[string]http.Handler{"*": http.HandlerFunc(s.serveNodeProxy)}
	}
	return nil
}

// pod reads the pod that a connection is about: as new as the client may know it.
func (s *Server) pod(r *http.Request, name string) (*corev1.Pod, error) {
	info, _ := request.RequestInfoFrom(r.Context())
	if err := s.reached(r.Context(), s.cfg.Quorum, ""); err != nil {
		return nil, err
	}
	obj, err := s.Get(r.Context(), podsGR, info.Namespace, name)
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("stored pod %s is a %T", name, obj))
	}
	return pod, nil
}

func (s *Server) serveLog(w http.ResponseWriter, r *http.Request) {
	info, _ := request.RequestInfoFrom(r.Context())
	o, err := logOptions(r.URL.Query())
	if err == nil {
		err = validateLog(o, info.Name)
	}
	var pod *corev1.Pod
	if err == nil {
		pod, err = s.pod(r, info.Name)
	}
	container := ""
	if err == nil {
		container, err = containerOf(pod, o.Container)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if pod.Spec.NodeName == "" {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusOK) // it has not run anywhere, so it has said nothing
		return
	}
	q := url.Values{}
	for name, values := range r.URL.Query() {
		switch name {
		case "follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream":
			q[name] = values
		}
	}
	s.logFromNode(w, r, pod.Spec.NodeName, agentPath("containerLogs", pod.Namespace, pod.Name, container), q)
}

func validateLog(o *corev1.PodLogOptions, pod string) error {
	var errs field.ErrorList
	least := func(name string, v *int64, least int64) {
		if v != nil && *v < least {
			errs = append(errs, field.Invalid(field.NewPath(name), *v, "must be greater than or equal to "+strconv.FormatInt(least, 10)))
		}
	}
	least("tailLines", o.TailLines, 0)
	least("limitBytes", o.LimitBytes, 1)
	least("sinceSeconds", o.SinceSeconds, 1)
	if o.SinceSeconds != nil && o.SinceTime != nil {
		errs = append(errs, field.Forbidden(field.NewPath("sinceSeconds"), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), pod, errs)
	}
	return nil
}

func (s *Server) serveExec(w http.ResponseWriter, r *http.Request) {
	o, err := readStreamOptions(r.URL.Query())
	if err == nil && len(o.command) == 0 {
		err = apierrors.NewBadRequest("you must specify at least one command for the container")
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	q := o.forAgent()
	q["command"] = o.command
	s.toContainer(w, r, "exec", &o, q)
}

func (s *Server) serveAttach(w http.ResponseWriter, r *http.Request) {
	o, err := readStreamOptions(r.URL.Query())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.toContainer(w, r, "attach", &o, o.forAgent())
}

// forAgent says in the agent's terms (a kubelet's) which streams are wanted.
func (o *streamOptions) forAgent() url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"input": o.stdin, "output": o.stdout, "error": o.stderr, "tty": o.tty} {
		if on {
			q.Set(name, "1")
		}
	}
	return q
}

// toContainer connects to a container of a running pod.
func (s *Server) toContainer(w http.ResponseWriter, r *http.Request, what string, o *streamOptions, q url.Values) {
	info, _ := request.RequestInfoFrom(r.Context())
	container := o.container
	pod, err := s.pod(r, info.Name)
	if err == nil && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) {
		err = apierrors.NewBadRequest(fmt.Sprintf("cannot %s into a container in a completed pod; current phase is %s", what, pod.Status.Phase))
	}
	if err == nil {
		container, err = containerOf(pod, container)
	}
	if err == nil {
		err = scheduled(pod)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.execOrAttach(w, r, pod.Spec.NodeName, agentPath(what, pod.Namespace, pod.Name, container), o, q)
}

func (s *Server) servePortForward(w http.ResponseWriter, r *http.Request) {
	info, _ := request.RequestInfoFrom(r.Context())
	pod, err := s.pod(r, info.Name)
	if err == nil {
		err = scheduled(pod)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	q := url.Values{}
	if ports := r.URL.Query()["ports"]; len(ports) > 0 {
		q["port"] = ports
	}
	s.forwardPorts(w, r, pod.Spec.NodeName, agentPath("portForward", pod.Namespace, pod.Name), q)
}

func scheduled(pod *corev1.Pod) error {
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return nil
}

// containerOf resolves the container that a request names or, if there is only one, means.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var main, init, ephemeral []string
	for _, c := range pod.Spec.Containers {
		main = append(main, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		init = append(init, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, c.Name)
	}
	if name == "" {
		if len(main) == 1 {
			return main[0], nil
		}
		text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, main)
		if len(init) > 0 {
			text += fmt.Sprintf(" or one of the init containers: %s", init)
		}
		if len(ephemeral) > 0 {
			text += fmt.Sprintf(" or one of the ephemeral containers: %s", ephemeral)
		}
		return "", apierrors.NewBadRequest(text)
	}
	for _, names := range [][]string{main, init, ephemeral} {
		for _, n := range names {
			if n == name {
				return name, nil
			}
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

func agentPath(parts ...string) string {
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "/" + strings.Join(parts, "/")
}

// toNode hands the request to the node's agent: bodies, answers and upgraded connections (SPDY, WebSocket) pass through.
func (s *Server) toNode(w http.ResponseWriter, r *http.Request, node, path string, query url.Values, rewrite *proxy.Transport) {
	rt, err := s.node(r.Context(), node)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if rewrite != nil && r.Header.Get("Upgrade") == "" {
		rewrite.RoundTripper = rt
		rt = rewrite
	}
	s.through(w, r, rt, node, path, query)
}

// through passes a request on to a node's agent by a transport to it.
func (s *Server) through(w http.ResponseWriter, r *http.Request, rt http.RoundTripper, node, path string, query url.Values) {
	p := &httputil.ReverseProxy{
		Transport:     rt,
		FlushInterval: -1,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL = agentURL(node, path, query)
			pr.Out.Host = node
			pr.Out.Header.Del("Authorization")
			pr.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s: %v", node, err)))
		},
		ModifyResponse: s.agentError,
	}
	p.ServeHTTP(w, r)
}

// agentErrorLimit is how much of an agent's error text is shown.
const agentErrorLimit = 8 << 10

// agentError turns the plain errors of an agent's own paths into Statuses.
func (s *Server) agentError(resp *http.Response) error {
	if resp.StatusCode < 400 || strings.HasPrefix(resp.Request.URL.Path, "/podProxy/") || strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, agentErrorLimit))
	if err != nil {
		return fmt.Errorf("reading the agent's error: %w", err)
	}
	resp.Body.Close()
	status := apierrors.NewGenericServerResponse(resp.StatusCode, resp.Request.Method, podsGR, "", strings.TrimSpace(string(text)), 0, true).Status()
	status.Message = strings.TrimSpace(string(text))
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	var body strings.Builder
	if err := writeJSON(&body, status); err != nil {
		return err
	}
	resp.Body = io.NopCloser(strings.NewReader(body.String()))
	resp.ContentLength = int64(body.Len())
	resp.Header.Set("Content-Type", "application/json")
	resp.Header.Set("Content-Length", strconv.Itoa(body.Len()))
	return nil
}
