package boot

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"mgr/api"
	"mgr/api/admission"
	"mgr/api/auth"
	"mgr/api/join"
	"mgr/cmd/admin"
	"mgr/pki"
	"mgr/pki/enroll"
	"mgr/raftnode"
	"mgr/tunnel"
)

// Parts are what the control plane of one master stands on. All but Peers are required.
type Parts struct {
	ID        string
	Node      *raftnode.Node
	Authority *pki.Authority
	Tunnels   *tunnel.Registry
	Peers     http.RoundTripper // to other masters, as this one; nil: a follower answers writes with 503
	Services  netip.Prefix
	Pods      netip.Prefix

	NodeGrace     time.Duration
	PodToleration time.Duration
	Gauges        func() map[string]float64 // more figures for monitoring; may be nil
	Log           *slog.Logger
}

// Plane is the control plane of one master: everything between the quorum's log and the port. It touches no file and no
// socket and waits by channels and timers only, so a cluster of them can live in a testing/synctest bubble.
type Plane struct {
	cfg  Parts
	log  *slog.Logger
	node *raftnode.Node

	tunnels  *tunnel.Registry
	nodeKeys *auth.NodeKeys
	tokens   *auth.Tokens
	joins    *join.Server
	api      *api.Server
	duties   *duties
	reader   *api.Reader
	callers  callers
	admin    kubernetes.Interface // in process, as the administrator
}

// Assemble makes the control plane. It does nothing before Run, and is ended by Leave.
func Assemble(parts Parts) (*Plane, error) {
	if parts.ID == "" || parts.Node == nil || parts.Authority == nil || parts.Tunnels == nil || parts.Log == nil {
		return nil, errors.New("assemble the control plane: ID, Node, Authority, Tunnels and Log are needed")
	}
	p := &Plane{cfg: parts, log: parts.Log, node: parts.Node, tunnels: parts.Tunnels}
	reader := api.NewReader(p.node)
	p.reader, p.callers = reader, callers{conns: map[string]map[net.Conn]struct{}{}}
	authn, err := auth.New(auth.Config{Reader: reader, CatchUp: p.node.ReadIndex, SigningKey: parts.Authority.SigningKey, Issuer: issuer, Votes: p.node.IsMember})
	if err != nil {
		return nil, err
	}
	p.nodeKeys, p.tokens = authn.Nodes, authn.Tokens
	p.duties = &duties{master: p}
	p.joins = join.New(join.Config{
		Authority: parts.Authority, Reader: reader, CatchUp: p.node.ReadIndex,
		Client:  func() kubernetes.Interface { return p.admin },
		Members: p.members, AddMember: p.addMember, Readmit: p.readmit,
		ClusterConfig: func() any { return p.settings() }, Log: p.log,
	})
	if err := p.serve(reader, authn); err != nil {
		return nil, err
	}
	p.admin, err = kubernetes.NewForConfig(p.api.Loopback(context.Background(), pki.AdminName, []string{pki.OrgAdmins}, 0))
	if err != nil {
		return nil, err
	}
	return p, p.duties.prepare()
}

// serve makes the API server.
func (p *Plane) serve(reader *api.Reader, authn *auth.Authenticator) error {
	// What members and administrators ask for, and the documents by which others verify service-account tokens.
	extra, err := authn.Tokens.Documents()
	if err != nil {
		return err
	}
	maps.Copy(extra, p.joins.Extra())
	extra[admin.MembersPath+"/"] = http.HandlerFunc(p.serveRemoval)
	authorizer := auth.NewAuthorizer(auth.AuthorizerConfig{Feed: reader, CatchUp: p.node.ReadIndex})
	maps.Copy(extra, (&backups{plane: p, authorizer: authorizer}).Extra())
	p.api, err = api.New(api.Config{
		Quorum:        p.node,
		Authenticator: authn,
		Authorizer:    authorizer,
		Admission: admission.New(admission.Config{
			Reader: reader, CatchUp: p.node.ReadIndex, TolerationSeconds: int64(p.cfg.PodToleration / time.Second),
			Authorizer: authorizer, NodeRegistered: p.joins.NodeRegistered,
		}),
		Dialer: p.tunnels,
		Tokens: authn.Tokens, TokenReviewer: authn,
		Explainer: p.duties,
		Peers:     p.cfg.Peers,
		Ranges:    api.Ranges{Services: p.cfg.Services, Pods: p.cfg.Pods},
		Members:   func() any { return p.node.Members() },
		Gauges:    p.gauges,
		Ready:     map[string]func(context.Context) error{"basic-namespaces": basicsExist(reader)},
		Public:    p.joins.Public(),
		Extra:     extra,
		Log:       p.log,
	})
	return err
}

func (p *Plane) gauges() map[string]float64 {
	all := p.node.Gauges()
	if p.cfg.Gauges != nil {
		maps.Copy(all, p.cfg.Gauges())
	}
	return all
}

// Handler serves the API of this master.
func (p *Plane) Handler() http.Handler { return p.api.Handler() }

// Run does a master's duties, and those of the leader while it leads, until ctx is done or nothing is to be served any more.
func (p *Plane) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.duties.run(ctx) })
	g.Go(func() error { p.refuse(ctx, stop); return nil })
	g.Go(func() error {
		p.node.RunAsLeader(ctx, p.duties.lead)
		return nil
	})
	g.Go(func() error { p.expel(ctx); return nil })
	return g.Wait()
}

// refuse closes the API when this peer's state cannot be trusted or does not go on. The informers stop before: their watches end at once
// in a closed API, and they would begin anew for ever without a pause.
func (p *Plane) refuse(ctx context.Context, stop context.CancelFunc) {
	var why error
	select {
	case <-ctx.Done():
		return
	case <-p.node.Quarantine():
		why = p.node.Quarantined()
	case <-p.node.Failed():
		why = p.node.Err()
	}
	stop()
	p.api.Refuse(why)
}

// Leave hands leadership over, so that a planned stop does not cost an election, and hands on the requests that wait here
// for the new leader. It takes at most patience, and the plane serves nothing new afterwards.
func (p *Plane) Leave(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, _, self := p.node.Leader(); self {
		if err := p.node.TransferLeadership(ctx); err != nil {
			p.log.Info("leadership was not handed over; the others will elect", "err", err)
		} else {
			p.awaitSuccessor(ctx)
		}
	}
	p.Close()
}

// Close ends watches, and tunnels to nodes.
func (p *Plane) Close() {
	p.api.Close()
	p.tunnels.Close()
}

// awaitSuccessor waits until this master knows the new leader, and long enough for requests to see it too.
func (p *Plane) awaitSuccessor(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for known := false; ; {
		id, _, _ := p.node.Leader()
		if id != "" && known {
			return
		}
		known = id != ""
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settings are what joining masters and nodes are told.
func (p *Plane) settings() clusterSettings {
	return clusterSettings{Services: p.cfg.Services, Pods: p.cfg.Pods, Domain: ClusterDomain}
}

// members are all masters, as the quorum knows them now.
func (p *Plane) members() []enroll.Member {
	var all []enroll.Member
	for _, peer := range p.node.Peers() {
		all = append(all, enroll.Member{ID: peer.ID, Addr: peer.Addr})
	}
	return all
}

// endpoints are the addresses of all masters.
func (p *Plane) endpoints() []netip.AddrPort {
	var all []netip.AddrPort
	for _, member := range p.members() {
		if a, err := netip.ParseAddrPort(member.Addr); err == nil {
			all = append(all, a)
		}
	}
	return all
}
