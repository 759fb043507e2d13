package local

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"mgr/cmd/admin"
	"mgr/cmd/local/netns"
	"mgr/pki"
)

// Up brings a local cluster to life. A cluster that was up before a reboot comes back with its data.
type Up struct {
	Spec       Spec
	Demo       bool   // deploy the demo and fetch it
	Kubeconfig string // where the user's kubeconfig goes
	Progress   *Progress

	client *Client
	hosts  []Status
	cfg    *rest.Config
	kube   kubernetes.Interface
	began  time.Time
	demo   demoResult
}

// serviceCIDR is routed from this machine through the first node.
var serviceCIDR = netip.MustParsePrefix("10.43.0.0/16")

// Run starts everything and returns when it works, or with the reason why it does not.
func (u *Up) Run(ctx context.Context) error {
	u.began = time.Now()
	u.client = NewClient(u.Spec.Dir)
	if u.client.Alive(ctx) {
		return fmt.Errorf("a local cluster is already running in %s: look at it with `mgr host`, end it with `mgr down`", u.Spec.Dir)
	}
	steps := []step{
		{fmt.Sprintf("%d hosts on one network", u.Spec.Masters+u.Spec.Nodes), u.startSupervisor, time.Minute},
		{"master-1 starts a quorum of its own", u.startFirst, time.Minute},
		{fmt.Sprintf("quorum of %d masters", u.Spec.Masters), u.startMasters, 2 * time.Minute},
	}
	if u.Spec.Nodes > 0 {
		steps = append(steps, step{fmt.Sprintf("%d nodes ready", u.Spec.Nodes), u.startNodes, 2 * time.Minute})
		if u.Demo {
			steps = append(steps, u.demoSteps()...)
		}
	}
	for _, s := range steps {
		err := u.Progress.Step(s.title, func(detail func(string)) error {
			ctx, cancel := context.WithTimeout(ctx, s.limit)
			defer cancel()
			return s.run(ctx, detail)
		})
		if err != nil {
			return u.explain(s.title, err)
		}
	}
	return nil
}

// explain adds to an error where to look and how to start over.
func (u *Up) explain(step string, err error) error {
	return fmt.Errorf("%s: %w\nthe hosts' logs are in %s/*/mgr.log; `mgr down` clears everything away", step, err, u.Spec.Dir)
}

// startSupervisor leaves a detached supervisor process behind, which outlives this command.
func (u *Up) startSupervisor(ctx context.Context, _ func(string)) error {
	if old, err := Load(u.Spec.Dir); err == nil {
		u.Spec = old // the cluster of before a reboot
	} else if !errors.Is(err, ErrNone) {
		return err
	}
	if err := u.Spec.save(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(u.Spec.Dir, "supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(exe, SupervisorCommand, "--dir", u.Spec.Dir)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, u.Spec.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	err = until(ctx, func() error {
		select {
		case err := <-exited:
			return final{fmt.Errorf("the supervisor ended (%v): %s", err, lastLine(out.Name()))}
		default:
			u.hosts, err = u.client.Hosts(ctx)
			return err
		}
	})
	return err
}

// SupervisorCommand is the hidden command that runs Supervise.
const SupervisorCommand = "local-supervisor"

func (u *Up) startFirst(ctx context.Context, detail func(string)) error {
	first := u.hosts[0]
	if err := u.client.Do(ctx, first.Name, "start"); err != nil {
		return err
	}
	detail("waiting for its API")
	return until(ctx, func() error {
		raw, err := clientcmd.LoadFromFile(filepath.Join(first.Dir, admin.KubeconfigFile))
		if err != nil {
			return fmt.Errorf("master-1 does not answer: %w: %s", err, lastLine(filepath.Join(first.Dir, "mgr.log")))
		}
		if err := u.use(raw); err != nil {
			return err
		}
		return u.ready(ctx)
	})
}

// use keeps a client for the masters of a kubeconfig and hands the kubeconfig to the user, with every master in it.
func (u *Up) use(raw *clientcmdapi.Config) error {
	auth := raw.AuthInfos[pki.AdminName]
	var masters []admin.Endpoint
	for _, h := range u.hosts {
		if h.Role == Master {
			masters = append(masters, admin.Endpoint{ID: h.Name, Addr: netip.AddrPortFrom(h.IP, 6443)})
		}
	}
	cluster := raw.Clusters[raw.Contexts[raw.CurrentContext].Cluster]
	trust, err := pki.ParseTrust(cluster.CertificateAuthorityData)
	if err != nil {
		return err
	}
	full, err := admin.Kubeconfig(trust, auth.ClientCertificateData, auth.ClientKeyData, masters)
	if err != nil {
		return err
	}
	for _, path := range []string{kubeconfigPath(u.Spec.Dir), u.Kubeconfig} {
		if path == "" {
			continue
		}
		if err := admin.WriteKubeconfig(full, path); err != nil {
			return err
		}
	}
	if u.cfg, err = clientcmd.NewDefaultClientConfig(*full, nil).ClientConfig(); err != nil {
		return err
	}
	u.cfg.QPS, u.cfg.Burst = -1, -1
	u.kube, err = kubernetes.NewForConfig(u.cfg)
	return err
}

func (u *Up) ready(ctx context.Context) error {
	return u.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// startMasters hands out join tokens and starts the other masters.
func (u *Up) startMasters(ctx context.Context, detail func(string)) error {
	for _, role := range []pki.Role{pki.RoleServer, pki.RoleAgent} {
		token, err := admin.CreateToken(ctx, u.kube, role, 24*time.Hour)
		if err != nil {
			return err
		}
		if err := os.WriteFile(tokenPath(u.Spec.Dir, string(role)), []byte(token+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := u.start(ctx, Master); err != nil {
		return err
	}
	return until(ctx, func() error {
		members, err := admin.Members(ctx, u.kube)
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range members {
			if m.Voter() {
				voters++
			}
		}
		detail(fmt.Sprintf("%d of %d vote", voters, u.Spec.Masters))
		if voters < u.Spec.Masters {
			return fmt.Errorf("only %d of %d masters have joined the quorum", voters, u.Spec.Masters)
		}
		return nil
	})
}

func (u *Up) start(ctx context.Context, role Role) error {
	for _, h := range u.hosts {
		if h.Role == role {
			if err := u.client.Do(ctx, h.Name, "start"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *Up) startNodes(ctx context.Context, detail func(string)) error {
	if err := u.start(ctx, Node); err != nil {
		return err
	}
	err := until(ctx, func() error {
		waiting, err := notReadyNodes(ctx, u.kube, u.Spec.Nodes)
		if err != nil {
			return err
		}
		if waiting != "" {
			detail(waiting)
			return errors.New(waiting)
		}
		return nil
	})
	if err != nil {
		return err
	}
	net, err := netns.Open(netns.Config{Prefix: u.Spec.Name, Subnet: u.Spec.Subnet})
	if err != nil {
		return err
	}
	return net.RouteServices(serviceCIDR, "node-1")
}

// final marks an error that waiting cannot mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// until repeats try every 50 ms until it succeeds, fails for good, or ctx ends; then it returns the last error.
func until(ctx context.Context, try func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if f := (final{}); errors.As(err, &f) {
			return f.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting: %w", err)
		case <-tick.C:
		}
	}
}

func lastLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
