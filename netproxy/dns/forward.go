package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	upstreamTimeout = 2 * time.Second
	// rest is how long a resolver that did not answer is left alone: with none in reach, clients hear so at once.
	rest        = 3 * time.Second
	maxForwards = 512 // questions under way at once; further ones wait
	maxCached   = 10_000
	maxCacheTTL = 30 * time.Second
	udpSize     = 1232 // fits in every network's packets
)

// Why a name outside of the cluster cannot be answered.
var (
	errNoUpstream = errors.New("no upstream resolver")
	errAllSilent  = errors.New("no upstream resolver answers")
)

// forwarder asks the resolvers that the host uses.
type forwarder struct {
	conf string     // path of resolv.conf
	self netip.Addr // which is not to be asked
	log  *slog.Logger
	now  func() time.Time
	busy chan struct{}

	mu        sync.Mutex
	upstreams []string // host:port
	loops     map[string]bool
	silent    map[string]time.Time // until when a resolver is left alone
	probes    map[string]string    // names that came back to us would prove a loop → upstream
	cache     map[questionKey]cached
}

type questionKey struct {
	name   string
	qtype  uint16
	dnssec bool
}

type cached struct {
	msg           *dns.Msg
	stored, until time.Time
}

func newForwarder(conf string, self netip.Addr, log *slog.Logger) *forwarder {
	return &forwarder{
		conf: conf, self: self, log: log, now: time.Now, busy: make(chan struct{}, maxForwards),
		loops: map[string]bool{}, silent: map[string]time.Time{}, probes: map[string]string{}, cache: map[questionKey]cached{},
	}
}

// load reads resolv.conf and probes new resolvers for loops.
func (f *forwarder) load(ctx context.Context) {
	var next []string
	conf, err := dns.ClientConfigFromFile(f.conf)
	if err == nil {
		for _, s := range conf.Servers {
			if a, err := netip.ParseAddr(s); err == nil && a.Unmap() != f.self {
				next = append(next, net.JoinHostPort(s, conf.Port))
			}
		}
	}
	f.mu.Lock()
	changed := !slices.Equal(next, f.upstreams)
	f.upstreams = next
	f.mu.Unlock()
	if !changed {
		return
	}
	if len(next) == 0 {
		f.log.Warn("no upstream resolver: names outside of the cluster are refused", "file", f.conf, "err", err)
	}
	for _, up := range next {
		f.probe(ctx, up)
	}
}

// probe asks for a name that nobody else knows. If the question comes back to us, the resolver forwards to us.
func (f *forwarder) probe(ctx context.Context, upstream string) {
	name := fmt.Sprintf("%d.%d.loop.mgr.invalid.", dns.Id(), f.now().UnixNano())
	f.mu.Lock()
	f.probes[name] = upstream
	f.mu.Unlock()
	q := new(dns.Msg)
	q.SetQuestion(name, dns.TypeHINFO)
	c := dns.Client{Timeout: upstreamTimeout}
	_, _, err := c.ExchangeContext(ctx, q, upstream)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.probes, name)
	if err != nil {
		f.log.Debug("upstream resolver does not answer", "resolver", upstream, "err", err)
	}
}

// isProbe notes a loop when one of our own probes comes in.
func (f *forwarder) isProbe(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	up, ok := f.probes[name]
	if ok && !f.loops[up] {
		f.loops[up] = true
		f.log.Error("the upstream resolver sends its questions to us; it is left out", "resolver", up, "file", f.conf)
	}
	return ok
}

// usable returns the resolvers to ask, in order, and otherwise why there are none.
func (f *forwarder) usable() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := f.now(), errNoUpstream
	ups := slices.DeleteFunc(slices.Clone(f.upstreams), func(up string) bool {
		if f.loops[up] {
			return true
		}
		err = errAllSilent
		return now.Before(f.silent[up])
	})
	return ups, err
}

// heard notes whether a resolver answered.
func (f *forwarder) heard(up string, answered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if answered {
		delete(f.silent, up)
		return
	}
	f.silent[up] = f.now().Add(rest)
}

// ask answers from the cache or from the first upstream that can; req has one question.
func (f *forwarder) ask(ctx context.Context, req *dns.Msg, tcp bool) (*dns.Msg, error) {
	q := questionKey{name: req.Question[0].Name, qtype: req.Question[0].Qtype}
	if opt := req.IsEdns0(); opt != nil {
		q.dnssec = opt.Do()
	}
	if m := f.cached(q); m != nil {
		return m, nil
	}
	select {
	case f.busy <- struct{}{}:
		defer func() { <-f.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ups, err := f.usable()
	var last *dns.Msg
	for _, up := range ups {
		var m *dns.Msg
		m, err = exchange(ctx, req, q.dnssec, up, tcp)
		f.heard(up, err == nil)
		if err != nil {
			err = fmt.Errorf("ask %s: %w", up, err)
			continue
		}
		if last = m; m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
			continue // another may know
		}
		f.store(q, m)
		return m, nil
	}
	if last != nil {
		return last, nil
	}
	return nil, err
}

func exchange(ctx context.Context, req *dns.Msg, dnssec bool, upstream string, tcp bool) (*dns.Msg, error) {
	out := new(dns.Msg)
	out.SetQuestion(req.Question[0].Name, req.Question[0].Qtype)
	out.Question[0].Qclass = req.Question[0].Qclass
	out.RecursionDesired = true
	out.SetEdns0(udpSize, dnssec)
	c := dns.Client{Timeout: upstreamTimeout, UDPSize: udpSize}
	if tcp {
		c.Net = "tcp"
	}
	m, _, err := c.ExchangeContext(ctx, out, upstream)
	return m, err
}

// cached returns a copy with the time to live that is left.
func (f *forwarder) cached(q questionKey) *dns.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.cache[q]
	now := f.now()
	if !ok || now.After(c.until) {
		return nil
	}
	m := c.msg.Copy()
	age := uint32(now.Sub(c.stored) / time.Second)
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			if rr.Header().Rrtype != dns.TypeOPT {
				rr.Header().Ttl -= min(age, rr.Header().Ttl)
			}
		}
	}
	return m
}

// store keeps answers, and denials that say how long they hold (RFC 2308).
func (f *forwarder) store(q questionKey, m *dns.Msg) {
	keep := maxCacheTTL
	positive := m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
	if m.Truncated || !positive && m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return
	}
	denied := false
	for _, rr := range append(append([]dns.RR(nil), m.Answer...), m.Ns...) {
		seconds := rr.Header().Ttl
		if soa, ok := rr.(*dns.SOA); ok && !positive {
			denied = true
			seconds = min(seconds, soa.Minttl)
		}
		keep = min(keep, time.Duration(seconds)*time.Second)
	}
	if !positive && !denied || keep <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if len(f.cache) >= maxCached {
		f.evict(now)
	}
	f.cache[q] = cached{msg: m.Copy(), stored: now, until: now.Add(keep)}
}

// evict drops what is over, and if that is not enough anything.
func (f *forwarder) evict(now time.Time) {
	for q, c := range f.cache {
		if now.After(c.until) {
			delete(f.cache, q)
		}
	}
	for q := range f.cache {
		if len(f.cache) < maxCached*9/10 {
			return
		}
		delete(f.cache, q)
	}
}
