//go:build linux

// Package dns is the cluster's resolver on each node. It listens at the cluster DNS address, which it adds to the node's
// loopback interface, so pods and the node itself reach the resolver of their own node and no other.
//
// For the cluster domain it answers from the memory of the informers, after the Kubernetes DNS specification 1.1: services,
// headless services with their endpoints' host names, named ports (SRV), pods by address, external names, reverse names.
// A name that does not exist (NXDOMAIN) is told from one without records of the type (NOERROR without answer), because
// search lists depend on it. Everything else is asked of the resolvers in resolv.conf, with a small cache; without any, it
// is refused.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"

	"mgr/netproxy/localaddr"
)

const (
	port = "53"
	// bindRetry: another process may hold the port for a while, such as a predecessor that is still ending.
	bindRetry  = 2 * time.Second
	reload     = 30 * time.Second // of resolv.conf
	shutdown   = time.Second
	maxAliases = 8 // CNAMEs in a row
)

// Config of a Server.
type Config struct {
	Addr       netip.Addr // cluster DNS address
	Domain     string     // such as cluster.local
	ResolvConf string
	Private    []netip.Prefix // the cluster's own ranges; reverse names in them are not asked of others
	Informers  informers.SharedInformerFactory
	Log        *slog.Logger
}

// Server is a node's resolver.
type Server struct {
	cfg  Config
	zone *zone
	fwd  *forwarder
	ctx  context.Context // of Run, for questions
}

// New subscribes to the informers, which the caller starts.
func New(cfg Config) (*Server, error) {
	if _, ok := dns.IsDomainName(cfg.Domain); !ok || cfg.Domain == "" || cfg.Domain == "." {
		return nil, fmt.Errorf("cluster domain %q: want a domain name such as cluster.local", cfg.Domain)
	}
	z, err := newZone(cfg.Domain, cfg.Informers)
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, zone: z, fwd: newForwarder(cfg.ResolvConf, cfg.Addr, cfg.Log), ctx: context.Background()}, nil
}

// Run serves until ctx is done. If the address cannot be used, it says so and tries again.
func (s *Server) Run(ctx context.Context) error {
	s.ctx = ctx
	for {
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.cfg.Log.Error("cluster DNS does not work; trying again", "addr", s.cfg.Addr, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(bindRetry):
		}
	}
}

func (s *Server) serve(ctx context.Context) error {
	if err := localaddr.Add(s.cfg.Addr); err != nil {
		return err
	}
	at := net.JoinHostPort(s.cfg.Addr.String(), port)
	udp, err := net.ListenPacket("udp", at)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	tcp, err := net.Listen("tcp", at)
	if err != nil {
		udp.Close()
		return fmt.Errorf("listen: %w", err)
	}
	return s.serveOn(ctx, udp, tcp)
}

// serveOn answers on both sockets until ctx is done or one of them fails, and closes them.
func (s *Server) serveOn(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	servers := []*dns.Server{{PacketConn: udp, Handler: s, UDPSize: dns.DefaultMsgSize}, {Listener: tcp, Handler: s}}
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, srv := range servers {
		wg.Go(func() {
			defer cancel()
			errs[i] = srv.ActivateAndServe()
		})
	}
	wg.Go(func() { s.followResolvConf(ctx) })
	<-ctx.Done()
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
	defer stop()
	for _, srv := range servers {
		if err := srv.ShutdownContext(end); err != nil { // it never started, or a question takes too long
			s.cfg.Log.Debug("ending cluster DNS", "err", err)
		}
	}
	udp.Close()
	tcp.Close()
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) followResolvConf(ctx context.Context) {
	tick := time.NewTicker(reload)
	defer tick.Stop()
	for {
		s.fwd.load(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	m := s.answer(s.ctx, req, tcp)
	size := dns.MaxMsgSize
	opt := req.IsEdns0()
	if !tcp {
		size = dns.MinMsgSize
		if opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	if opt != nil {
		m.SetEdns0(udpSize, opt.Do())
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
		}
	}
	m.Compress = true
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Log.Debug("cannot answer", "client", w.RemoteAddr(), "err", err)
	}
}

// answer makes the reply to a request.
func (s *Server) answer(ctx context.Context, req *dns.Msg, tcp bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(req)
	m.RecursionAvailable = true
	switch {
	case req.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
		return m
	case len(req.Question) != 1:
		m.Rcode = dns.RcodeFormatError
		return m
	case req.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
		return m
	}
	q := req.Question[0]
	name := strings.ToLower(q.Name)
	switch {
	case s.zone.contains(name):
		s.fromZone(ctx, m, q.Name, q.Qtype, tcp)
	case q.Qtype == dns.TypePTR && s.fromReverse(m, q.Name):
	case s.fwd.isProbe(name):
		m.Rcode = dns.RcodeNameError
	default:
		s.fromUpstream(ctx, m, req, tcp)
	}
	return m
}

// fromZone answers for the cluster domain, and follows aliases out of it.
func (s *Server) fromZone(ctx context.Context, m *dns.Msg, name string, qtype uint16, tcp bool) {
	m.Authoritative = true
	if !s.zone.ready() {
		m.Rcode = dns.RcodeServerFailure
		return
	}
	for range maxAliases {
		r := s.zone.lookup(name, qtype)
		m.Answer, m.Extra = append(m.Answer, r.answer...), append(m.Extra, r.extra...)
		switch {
		case r.cname != "" && qtype != dns.TypeCNAME && s.zone.contains(strings.ToLower(r.cname)):
			name = r.cname
			continue
		case r.cname != "" && qtype != dns.TypeCNAME:
			s.alias(ctx, m, r.cname, qtype, tcp)
		case !r.exists:
			m.Rcode = dns.RcodeNameError
			m.Ns = []dns.RR{s.zone.soa()}
		case len(r.answer) == 0:
			m.Ns = []dns.RR{s.zone.soa()}
		}
		return
	}
}

// alias adds what others know of an external name; the alias alone is a good answer, too.
func (s *Server) alias(ctx context.Context, m *dns.Msg, target string, qtype uint16, tcp bool) {
	q := new(dns.Msg)
	q.SetQuestion(target, qtype)
	got, err := s.fwd.ask(ctx, q, tcp)
	if err != nil {
		s.cfg.Log.Debug("cannot look up the target of an external name", "name", target, "err", err)
		return
	}
	m.Answer = append(m.Answer, got.Answer...)
}

// fromReverse answers reverse names that are the cluster's; false if somebody else may know.
func (s *Server) fromReverse(m *dns.Msg, name string) bool {
	ip, ok := reverseAddr(name)
	if !ok {
		return false
	}
	private := false
	for _, p := range s.cfg.Private {
		private = private || p.Contains(ip)
	}
	if !s.zone.ready() && private {
		m.Rcode = dns.RcodeServerFailure
		return true
	}
	m.Answer = s.zone.reverse(name, ip)
	if len(m.Answer) == 0 && !private {
		return false
	}
	m.Authoritative = true
	if len(m.Answer) == 0 {
		m.Rcode = dns.RcodeNameError
	}
	return true
}

// reverseAddr reads 4.3.2.1.in-addr.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(strings.ToLower(name), ".in-addr.arpa.")
	labels := strings.Split(rest, ".")
	if !ok || len(labels) != 4 {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
	return ip, err == nil
}

func (s *Server) fromUpstream(ctx context.Context, m, req *dns.Msg, tcp bool) {
	if !req.RecursionDesired {
		m.Rcode = dns.RcodeRefused
		return
	}
	got, err := s.fwd.ask(ctx, req, tcp)
	switch {
	case errors.Is(err, errNoUpstream):
		m.Rcode = dns.RcodeRefused
	case err != nil:
		s.cfg.Log.Debug("cannot forward", "name", req.Question[0].Name, "err", err)
		m.Rcode = dns.RcodeServerFailure
	default:
		m.Rcode, m.Answer, m.Ns, m.Truncated = got.Rcode, got.Answer, got.Ns, got.Truncated
		for _, rr := range got.Extra {
			if rr.Header().Rrtype != dns.TypeOPT {
				m.Extra = append(m.Extra, rr)
			}
		}
	}
}
