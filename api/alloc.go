package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"mgr/fsm"
	"mgr/resource"
	"mgr/resource/quota"
)

// Ranges are what the cluster assigns from.
type Ranges struct {
	Services    netip.Prefix // cluster IPs; zero: 10.43.0.0/16
	Pods        netip.Prefix // split among nodes; zero: 10.42.0.0/16
	NodePodBits int          // prefix length of one node's share; zero: 24
	NodePorts   [2]int       // first and last node port; zero: 30000–32767
}

func (r Ranges) withDefaults() Ranges {
	if !r.Services.IsValid() {
		r.Services = netip.MustParsePrefix("10.43.0.0/16")
	}
	if !r.Pods.IsValid() {
		r.Pods = netip.MustParsePrefix("10.42.0.0/16")
	}
	if r.NodePodBits == 0 {
		r.NodePodBits = 24
	}
	if r.NodePorts == [2]int{} {
		r.NodePorts = [2]int{30000, 32767}
	}
	return r
}

func (r Ranges) check() error {
	if !r.Services.Addr().Is4() || !r.Pods.Addr().Is4() {
		return fmt.Errorf("service and pod ranges must be IPv4, got %s and %s", r.Services, r.Pods)
	}
	if r.Services.Bits() > 28 {
		return fmt.Errorf("service range %s is too small: at least a /28 is needed", r.Services)
	}
	if r.NodePodBits < r.Pods.Bits() || r.NodePodBits > 30 {
		return fmt.Errorf("a /%d for each node does not fit into the pod range %s", r.NodePodBits, r.Pods)
	}
	if r.NodePorts[0] < 1 || r.NodePorts[1] > 65535 || r.NodePorts[0] > r.NodePorts[1] {
		return fmt.Errorf("node ports %d-%d are no range of ports", r.NodePorts[0], r.NodePorts[1])
	}
	return nil
}

// ranges picks values that nobody claims. What it gives to a request stays reserved until the request has ended, so
// that two requests in flight do not meet; the state machine has the last word.
type ranges struct {
	Ranges
	mu       sync.Mutex
	reserved map[string]bool
}

func newRanges(r Ranges) *ranges { return &ranges{Ranges: r, reserved: map[string]bool{}} }

// allocation is the resource.Allocator of one attempt of one request.
type allocation struct {
	r     *ranges
	state *fsm.State
	picks []string // claims, or their prefixes ending in "/"
	// charge is what the attempt owes to quotas; nil: there are none.
	charge *quota.Charge
}

var _ resource.Allocator = &allocation{}

func (r *ranges) begin(f *fsm.FSM) *allocation { return &allocation{r: r, state: f.State()} }

// end gives back the reservations.
func (a *allocation) end() {
	if len(a.picks) == 0 {
		return
	}
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	for _, p := range a.picks {
		delete(a.r.reserved, p)
	}
}

// retry says whether one of the claims was picked here, so that another attempt may pick another.
func (a *allocation) retry(claims []string) bool {
	if a == nil {
		return false
	}
	for _, c := range claims {
		for _, p := range a.picks {
			if c == p || (strings.HasSuffix(p, "/") && strings.HasPrefix(c, p)) {
				return true
			}
		}
	}
	return false
}

// Pick implements resource.Allocator.
func (a *allocation) Pick(space string) (string, error) {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	first, n, value, err := a.r.space(space)
	if err != nil {
		return "", err
	}
	start := 0
	if space != "podcidr" {
		start = rand.IntN(n)
	}
	for i := range n {
		v := value(first + (start+i)%n)
		claim := space + "/" + v
		if space == "nodeport" {
			claim += "/"
		}
		if a.r.reserved[claim] || a.held(claim) {
			continue
		}
		a.r.reserved[claim] = true
		a.picks = append(a.picks, claim)
		return v, nil
	}
	return "", fmt.Errorf("every value of the cluster's %s range is in use", space)
}

func (a *allocation) held(claim string) bool {
	if !strings.HasSuffix(claim, "/") {
		_, held := a.state.Claim(claim)
		return held
	}
	for range a.state.Claims(claim) {
		return true
	}
	return false
}

// space describes where values of a space are picked: n of them, from number first on.
func (r *ranges) space(space string) (first, n int, value func(int) string, err error) {
	switch space {
	case "clusterip":
		// The lowest addresses are left to services that name theirs (KEP-3070).
		size := 1 << (32 - r.Services.Bits())
		static := min(max(16, size/16), 256)
		if static >= size-1 {
			static = 1
		}
		return static + 1, size - static - 2, func(i int) string { return nth(r.Services.Addr(), i) }, nil
	case "nodeport":
		return r.NodePorts[0], r.NodePorts[1] - r.NodePorts[0] + 1, strconv.Itoa, nil
	case "podcidr":
		shift := 32 - r.NodePodBits
		return 0, 1 << (r.NodePodBits - r.Pods.Bits()), func(i int) string {
			return nth(r.Pods.Addr(), i<<shift) + "/" + strconv.Itoa(r.NodePodBits)
		}, nil
	}
	return 0, 0, nil, fmt.Errorf("nothing is allocated from a space %q", space)
}

func nth(base netip.Addr, i int) string {
	b := base.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
	return netip.AddrFrom4(b).String()
}

// Check implements resource.Allocator.
func (a *allocation) Check(space, value string) error {
	switch space {
	case "clusterip":
		ip, err := netip.ParseAddr(value)
		if err != nil {
			return fmt.Errorf("%q is not an IP address", value)
		}
		last := nth(a.r.Services.Addr(), 1<<(32-a.r.Services.Bits())-1)
		if !a.r.Services.Contains(ip) || ip == a.r.Services.Addr() || value == last {
			return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", value, a.r.Services)
		}
	case "nodeport":
		port, err := strconv.Atoi(value)
		if err != nil || port < a.r.NodePorts[0] || port > a.r.NodePorts[1] {
			return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", a.r.NodePorts[0], a.r.NodePorts[1])
		}
	case "podcidr":
		p, err := netip.ParsePrefix(value)
		if err != nil || !a.r.Pods.Contains(p.Addr()) || p.Bits() < a.r.Pods.Bits() {
			return fmt.Errorf("%q is not part of the cluster's pod range %s", value, a.r.Pods)
		}
	}
	return nil
}

// claimed words the refusal of a value that the user chose and another object has.
func claimed(detail string) *field.Error {
	claim, _, _ := strings.Cut(detail, " ")
	space, value, _ := strings.Cut(claim, "/")
	switch space {
	case "clusterip":
		return field.Invalid(field.NewPath("spec", "clusterIPs"), []string{value}, "failed to allocate IP "+value+": provided IP is already allocated")
	case "nodeport":
		port, _, _ := strings.Cut(value, "/")
		n, _ := strconv.Atoi(port)
		return field.Invalid(field.NewPath("spec", "ports").Index(0).Child("nodePort"), n, "provided port is already allocated")
	case "podcidr":
		return field.Invalid(field.NewPath("spec", "podCIDR"), value, "it belongs to another node: "+detail)
	}
	return field.Forbidden(field.NewPath("spec"), detail)
}

// allocationError passes on a row's own Status; anything else means that the cluster had nothing to give.
func allocationError(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewInternalError(fmt.Errorf("assigning what the cluster gives: %w", err))
}
