//go:build linux

package netproxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"mgr/agent"
	"mgr/netproxy"
)

// The tests run the product as it is: one process for each simulated host. That process is the test binary again, told by
// this variable to be a node; the test speaks to it by JSON over its standard input and output.
const nodeEnv = "NETPROXY_TEST_NODE"

func TestMain(m *testing.M) {
	if os.Getenv(nodeEnv) != "" {
		if err := beNode(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// nodeConfig is what a node process is told first.
type nodeConfig struct {
	Name, IP, Dir, Mode, Balance string
	DNS                          bool
	ResolvConf                   string
	State                        []request // objects that exist at the start
}

// request is one order to a node process; exactly one field is set.
type request struct {
	Service       *corev1.Service            `json:",omitempty"`
	EndpointSlice *discoveryv1.EndpointSlice `json:",omitempty"`
	Node          *corev1.Node               `json:",omitempty"`
	Delete        bool                       `json:",omitempty"` // the object, instead of applying it

	Setup    *agent.PodNetwork `json:",omitempty"`
	Teardown string            `json:",omitempty"`
	Pods     bool              `json:",omitempty"`
	Stop     bool              `json:",omitempty"` // end, leaving all in place
	Cleanup  bool              `json:",omitempty"` // end, removing all
}

type response struct {
	Addrs []netip.Addr
	Pods  []string
	Err   string
}

func beNode(in io.Reader, out io.Writer) error {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	var cfg nodeConfig
	if err := dec.Decode(&cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := fake.NewClientset()
	for _, r := range cfg.State {
		if err := apply(ctx, client, r); err != nil {
			return err
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	c := netproxy.Config{
		NodeName: cfg.Name, NodeIP: netip.MustParseAddr(cfg.IP), Dir: cfg.Dir, Informers: factory,
		PodCIDR: podCIDR, ServiceCIDR: serviceCIDR, Mode: cfg.Mode, Balance: cfg.Balance, ResolvConf: cfg.ResolvConf,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if cfg.DNS {
		c.ClusterDNS = clusterDNS
	}
	proxy, err := netproxy.New(c)
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	ended := make(chan error, 1)
	go func() { ended <- proxy.Run(ctx) }()

	for {
		var r request
		if err := dec.Decode(&r); err != nil { // the test ended without a word
			cancel()
			return errors.Join(<-ended)
		}
		resp := serve(ctx, client, proxy, r)
		if r.Stop || r.Cleanup {
			cancel()
			err := <-ended
			if r.Cleanup {
				err = errors.Join(err, netproxy.Cleanup(context.Background(), cfg.Dir))
			}
			if err != nil {
				resp.Err = err.Error()
			}
			return enc.Encode(resp)
		}
		if err := enc.Encode(resp); err != nil {
			return err
		}
	}
}

func serve(ctx context.Context, client kubernetes.Interface, proxy *netproxy.Proxy, r request) response {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var resp response
	var err error
	switch {
	case r.Setup != nil:
		resp.Addrs, err = proxy.Network().Setup(ctx, *r.Setup)
	case r.Teardown != "":
		err = proxy.Network().Teardown(ctx, r.Teardown)
	case r.Pods:
		resp.Pods, err = proxy.Network().Pods(ctx)
	default:
		err = apply(ctx, client, r)
	}
	if err != nil {
		resp.Err = err.Error()
	}
	return resp
}

// writer is what the typed clients of all kinds have in common.
type writer[T any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

func apply(ctx context.Context, client kubernetes.Interface, r request) error {
	switch {
	case r.Service != nil:
		return write(ctx, client.CoreV1().Services(r.Service.Namespace), r.Service, r.Service.Name, r.Delete)
	case r.EndpointSlice != nil:
		return write(ctx, client.DiscoveryV1().EndpointSlices(r.EndpointSlice.Namespace), r.EndpointSlice, r.EndpointSlice.Name, r.Delete)
	case r.Node != nil:
		return write(ctx, client.CoreV1().Nodes(), r.Node, r.Node.Name, r.Delete)
	}
	return nil
}

func write[T any](ctx context.Context, w writer[T], obj T, name string, remove bool) error {
	if remove {
		return w.Delete(ctx, name, metav1.DeleteOptions{})
	}
	_, err := w.Create(ctx, obj, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = w.Update(ctx, obj, metav1.UpdateOptions{})
	}
	return err
}
