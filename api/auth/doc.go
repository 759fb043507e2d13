// Package auth answers two questions about every request: who sends it, and may they.
//
// # Who
//
// In this order, the first that applies: a client certificate of the cluster CA (and, from another master only, the
// identity it forwards in X-Remote-* headers), such headers over a connection with a certificate of the front proxies' own
// CA, a bearer token (of a service account, or for bootstrapping), or nobody. Nobody may see a handful of public
// paths (PublicPaths); everything else without credentials is 401. An agent's certificate counts only as long as its key
// is the one bound to the node's name and the Node object that registered with it still exists. A service-account token
// dies with the object it is bound to.
//
// # May they
//
// system:masters may do everything. An agent may do what its node needs: reads follow the references of the pods that are
// bound to it (nodeGraph). All others, and agents beyond that, are judged by the stored RBAC roles and bindings (policy); until
// the default ones have been written, those of package defaults hold as well. Roles and bindings are guarded (Guard): nobody
// grants what they do not have.
//
// All judge by this peer's local state as it is at the question: indexes follow the state (Feed), and asking one that is
// current takes no lock. Before a refusal the peer catches up with the quorum once (CatchUp) and looks again, so that a
// follower a moment behind never turns away what the leader allows.
package auth
