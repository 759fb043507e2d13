package agent

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// What resolvers of the C library can take; more than that is cut off, with a warning.
const (
	maxNameservers   = 3
	maxSearches      = 32
	maxSearchLength  = 253
	maxSearchesTotal = 2048
	maxHostname      = 64
)

// fitted cuts a resolver down to what programs can use, and says what it left out, in kubelet's words.
func (r resolver) fitted() (resolver, []string) {
	var notes []string
	if len(r.servers) > maxNameservers {
		r.servers = r.servers[:maxNameservers]
		notes = append(notes, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(r.servers, " "))
	}
	var searches []string
	total := 0
	for _, s := range r.searches {
		if len(s) > maxSearchLength {
			continue
		}
		if len(searches) == maxSearches || total+len(s) > maxSearchesTotal {
			break
		}
		searches, total = append(searches, s), total+len(s)+1
	}
	if len(searches) < len(r.searches) {
		r.searches = searches
		notes = append(notes, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(searches, " "))
	}
	return r, notes
}

// checkHostname refuses a name of the pod for itself that the kernel cannot take.
func (a *Agent) checkHostname(pod *v1.Pod) error {
	if name := a.hostname(pod); len(name) > maxHostname {
		return fmt.Errorf("Failed to construct FQDN from Pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			name, maxHostname, len(name))
	}
	return nil
}
