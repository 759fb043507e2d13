package fault

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/cmd/admin"
	"mgr/cmd/local/netns"
	"mgr/test/cluster"
)

// network hurts the network between masters; the tests' own clients reach all of them all the time.
type network struct {
	*World
	hosts *netns.Net
}

func newNetwork(t *testing.T, name string) *network {
	t.Helper()
	w := Beside(t, cluster.Options{Name: name})
	hosts, err := netns.Open(netns.Config{Prefix: name})
	if err != nil {
		t.Fatal(err)
	}
	return &network{w, hosts}
}

// block drops what one master sends to another.
func (n *network) block(t *testing.T, ways ...[2]string) {
	t.Helper()
	for _, way := range ways {
		if err := n.hosts.CutOneWay(way[0], way[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// heal lets everything pass again.
func (n *network) heal(t *testing.T) {
	t.Helper()
	for _, id := range n.IDs {
		if err := n.hosts.Heal(id); err != nil {
			t.Fatal(err)
		}
	}
}

// write tries all masters until one accepts a write, and says how long that took.
func (n *network) write(t *testing.T, what string) time.Duration {
	t.Helper()
	began := time.Now()
	n.Anywhere(t, what, func(ctx context.Context, at kubernetes.Interface) error {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "net-"}}
		_, err := at.CoreV1().ConfigMaps(Namespace).Create(ctx, cm, metav1.CreateOptions{})
		return err
	})
	return time.Since(began)
}

// everywhere waits until each master accepts a write, and says how long that took.
func (n *network) everywhere(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	for i, at := range n.Kubes {
		cluster.Eventually(t, 30*time.Second, n.IDs[i]+" accepts writes", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "net-"}}
			_, err := at.CoreV1().ConfigMaps(Namespace).Create(ctx, cm, metav1.CreateOptions{})
			return err
		})
	}
	return time.Since(began)
}

// term of the leader, once there is one, and who it is.
func (n *network) term(t *testing.T) (term uint64, leader admin.Member) {
	t.Helper()
	leader, _ = n.Whole(t)
	return leader.Term, leader
}

// leaders are those that began to lead a term, by term, as the masters' logs tell.
func (n *network) leaders(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, id := range n.IDs {
		for line := range strings.Lines(n.Log(t, id)) {
			if _, rest, ok := strings.Cut(line, `msg="this master leads"`); ok {
				_, rest, _ = strings.Cut(rest, "term=")
				term, _, _ := strings.Cut(rest, " ")
				all[strings.TrimSpace(term)] = append(all[strings.TrimSpace(term)], id)
			}
		}
	}
	return all
}

// TestPartitions cuts masters off from each other in every way, under load: where a leader is possible writes go on, after the heal they go
// on at every master, no term has two leaders, and terms do not grow for nothing.
func TestPartitions(t *testing.T) {
	n := newNetwork(t, "partitions")
	l := n.StartLoad(t, 2, 16)
	for _, p := range []struct {
		name  string
		ways  func(l, a, b string) [][2]string // l leads
		grows uint64                           // how far the term may grow, at a quiet time
	}{
		{"leader alone", func(l, a, b string) [][2]string { return [][2]string{{l, a}, {a, l}, {l, b}, {b, l}} }, 1},
		{"follower alone", func(l, a, b string) [][2]string { return [][2]string{{l, a}, {a, l}, {a, b}, {b, a}} }, 0},
		{"leader is not heard", func(l, a, b string) [][2]string { return [][2]string{{l, a}, {l, b}} }, 1},
		{"follower is not heard", func(l, a, b string) [][2]string { return [][2]string{{a, l}, {a, b}} }, 0},
		{"bridge beside the leader", func(l, a, _ string) [][2]string { return [][2]string{{l, a}, {a, l}} }, 0},
		{"bridge over the leader", func(_, a, b string) [][2]string { return [][2]string{{a, b}, {b, a}} }, 0},
		{"one way from the leader", func(l, a, _ string) [][2]string { return [][2]string{{l, a}} }, 0},
	} {
		before, leader := n.term(t)
		others := slices.DeleteFunc(slices.Clone(n.IDs), func(id string) bool { return id == leader.ID })
		n.block(t, p.ways(leader.ID, others[0], others[1])...)
		first := n.write(t, p.name+": a write")
		cluster.Pause(t.Context(), 3*time.Second)
		later := n.write(t, p.name+": a write later on")
		n.heal(t)
		healed := n.everywhere(t)
		after, _ := n.term(t)
		t.Logf("%-25s first write %5d ms, after 3 s %4d ms, at every master after the heal %5d ms, term +%d", p.name,
			first.Milliseconds(), later.Milliseconds(), healed.Milliseconds(), after-before)
		// A busy machine may add elections of its own, a peer that cannot win may not.
		if after-before > p.grows+3 {
			t.Errorf("%s: the term grew from %d to %d", p.name, before, after)
		}
	}
	n.judge(t, l)
}

// judge ends the load and looks for terms with two leaders.
func (n *network) judge(t *testing.T, l *Load) {
	t.Helper()
	t.Log(l.Finish(t))
	terms := n.leaders(t)
	for term, ids := range terms {
		if len(ids) > 1 {
			t.Errorf("term %s had %d leaders: %v", term, len(ids), ids)
		}
	}
	t.Logf("%d terms had a leader, none had two", len(terms))
}

// TestFlappingNetwork cuts and mends ways at random points of a ring, faster than elections settle.
func TestFlappingNetwork(t *testing.T) {
	n := newNetwork(t, "flapping")
	l := n.StartLoad(t, 2, 16)
	before, _ := n.term(t)
	const rounds = 20
	for i := range rounds {
		from, to := n.IDs[i%3], n.IDs[(i+1)%3]
		n.block(t, [2]string{from, to}, [2]string{to, from})
		cluster.Pause(t.Context(), time.Duration(100+i*40)*time.Millisecond)
		n.heal(t)
	}
	healed := n.everywhere(t)
	after, _ := n.term(t)
	t.Logf("%d ways cut and mended, for 0.1 to 0.9 s: writes at every master %d ms after the last, term +%d", rounds, healed.Milliseconds(), after-before)
	if after-before > rounds {
		t.Errorf("the term grew from %d to %d", before, after)
	}
	n.judge(t, l)
}

// TestLossyNetwork drops 30 % of all packets between masters: writes go on.
func TestLossyNetwork(t *testing.T) {
	n := newNetwork(t, "lossy")
	l := n.StartLoad(t, 2, 16)
	before, _ := n.term(t)
	for _, id := range n.IDs {
		n.inside(t, id, "iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "6443", "-m", "iprange", "--src-range", n.masters(t), "-m", "statistic", "--mode", "random", "--probability", "0.3", "-j", "DROP")
		n.inside(t, id, "iptables", "-w", "-A", "INPUT", "-p", "tcp", "--sport", "6443", "-m", "iprange", "--src-range", n.masters(t), "-m", "statistic", "--mode", "random", "--probability", "0.3", "-j", "DROP")
	}
	var took cluster.Durations
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
		took = append(took, n.write(t, "a write while 30 % of the packets are lost"))
	}
	for _, id := range n.IDs {
		n.inside(t, id, "iptables", "-w", "-F", "INPUT")
	}
	healed := n.everywhere(t)
	after, _ := n.term(t)
	t.Logf("30 %% of the packets lost for 8 s: %d writes, %s; at every master %d ms afterwards, term +%d", len(took), took, healed.Milliseconds(), after-before)
	n.judge(t, l)
}

// inside runs a command in a master's network namespace.
func (n *network) inside(t *testing.T, id string, command ...string) {
	t.Helper()
	var out []byte
	err := n.host(t, id).Do(func() (err error) {
		out, err = exec.Command(command[0], command[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
}

// masters is the masters' addresses.
func (n *network) masters(t *testing.T) string {
	t.Helper()
	var all []string
	for _, id := range n.IDs {
		all = append(all, n.host(t, id).Addr.String())
	}
	return fmt.Sprintf("%s-%s", all[0], all[len(all)-1])
}
