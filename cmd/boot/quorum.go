package boot

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"mgr/api/auth"
	"mgr/cmd/admin"
	"mgr/failpoint"
	"mgr/pki"
	"mgr/pki/enroll"
)

// joinTrust gets the cluster's keys from one of its masters, which proves itself by the hash in the token first.
func (m *Master) joinTrust(ctx context.Context) (*pki.Authority, error) {
	if m.cfg.Token == "" {
		return nil, errors.New("joining needs a server token: --token or --token-file (mgr token create --role server)")
	}
	reply, err := enroll.JoinServer(ctx, m.cfg.Join, m.cfg.Token, m.cfg.ID)
	if err != nil {
		return nil, err
	}
	var settings clusterSettings
	if err := json.Unmarshal(reply.Config, &settings); err != nil {
		return nil, fmt.Errorf("join the cluster: its settings: %w", err)
	}
	if settings.Services != m.services || settings.Pods != m.pods {
		return nil, fmt.Errorf("the cluster uses --service-cidr %s --pod-cidr %s: start this master with the same", settings.Services, settings.Pods)
	}
	authority, err := pki.FromSecrets(reply.Secrets)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("join.keys.received")
	defer failpoint.Hit("join.keys.saved")
	return authority, authority.Save(m.pkiDir())
}

// watchQuorum ends the master, to be started anew by its supervisor, when its peer cannot follow the log any more.
func (m *Master) watchQuorum(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-m.node.Failed():
		return m.node.Err()
	}
}

func (m *Master) close() {
	if err := m.node.Close(); err != nil {
		m.log.Warn("closing the quorum's log", "err", err)
	}
}

// serveRaft takes any master of the cluster's CA that was not removed: a peer that slept through changes of membership does not
// know the leader that wants to tell it.
func (m *Master) serveRaft(conn *tls.Conn, peer pki.Peer) {
	if !m.node.IsMember(peer.Name) {
		if err := auth.CheckMaster(context.Background(), m.reader, peer.Name); err != nil {
			m.log.Info("refused a master", "id", peer.Name, "err", err)
			return
		}
	}
	defer m.callers.add(peer.Name, conn)()
	m.node.HandleConn(conn)
}

// serveAgent takes the tunnel of a node that has not been removed.
func (m *Master) serveAgent(conn *tls.Conn, peer pki.Peer) {
	node, ok := peer.Node()
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := m.nodeKeys.Check(ctx, peer); err != nil {
		m.log.Info("refused a node's tunnel", "node", node, "err", err)
		return
	}
	m.tunnels.HandleConn(conn, node)
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
	for _, member := range m.members() {
		if a, err := netip.ParseAddrPort(member.Addr); err == nil && member.ID != m.cfg.ID {
			masters = append(masters, admin.Endpoint{ID: member.ID, Addr: a})
		}
	}
	config, err := admin.Kubeconfig(m.authority.Trust, certPEM, keyPEM, masters)
	if err != nil {
		return err
	}
	return admin.WriteKubeconfig(config, path) // whole or not at all: others wait for it
}

// defaultAddress is the address of the interface that the default route leaves by.
func defaultAddress() (netip.Addr, error) {
	// No packet is sent: connecting a UDP socket only asks the routing table.
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no default route: %w", err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
}
