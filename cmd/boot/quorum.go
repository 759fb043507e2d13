package boot

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"mgr/cmd/admin"
	"mgr/pki"
)

// enter makes this master a member: of a new quorum, of the one it joins, or of the one that its log remembers.
func (m *Master) enter(ctx context.Context) error {
	if m.node.HasState() {
		return nil
	}
	if m.cfg.ClusterInit {
		return m.node.Bootstrap()
	}
	return m.joinQuorum(ctx)
}

// leave hands leadership over, so that a planned stop does not cost an election.
func (m *Master) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, _, self := m.node.Leader(); self {
		if err := m.node.TransferLeadership(ctx); err != nil {
			m.log.Info("leadership was not handed over; the others will elect", "err", err)
		}
	}
	m.api.Close()
	m.tunnels.Close()
}

func (m *Master) close() {
	if err := m.node.Close(); err != nil {
		m.log.Warn("closing the quorum's log", "err", err)
	}
}

func (m *Master) serveRaft(conn *tls.Conn, _ pki.Peer) { m.node.HandleConn(conn) }

func (m *Master) serveAgent(conn *tls.Conn, peer pki.Peer) {
	if node, ok := peer.Node(); ok {
		m.tunnels.HandleConn(conn, node)
	}
}

// addMember is called on the leader for a master that has proved its right to join.
func (m *Master) addMember(ctx context.Context, id, addr string) error {
	return m.node.Join(ctx, id, addr)
}

// writeKubeconfig leaves the administrator's way in on this machine, for root.
func (m *Master) writeKubeconfig() error {
	path := filepath.Join(m.cfg.Dir, admin.KubeconfigFile)
	certPEM, keyPEM, err := m.authority.NewPair(pki.Admin())
	if err != nil {
		return err
	}
	// This master first; the others as the quorum knows them now.
	masters := []admin.Endpoint{{ID: m.cfg.ID, Addr: m.addr}}
	for _, member := range m.node.Configuration() {
		if a, err := netip.ParseAddrPort(member.Addr); err == nil && member.ID != m.cfg.ID {
			masters = append(masters, admin.Endpoint{ID: member.ID, Addr: a})
		}
	}
	config, err := admin.Kubeconfig(m.authority.Trust, certPEM, keyPEM, masters)
	if err != nil {
		return err
	}
	return clientcmd.WriteToFile(*config, path)
}

// defaultAddress is the address of the interface that the default route leaves by.
func defaultAddress() (netip.Addr, error) {
	// No packet is sent: connecting a UDP socket only asks the routing table.
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: %w", errNoAddress, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
}

