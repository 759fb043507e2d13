// Package api serves the Kubernetes API over the replicated state machine.
//
// # The way of a request
//
// chain.go recovers, counts, limits and names the request, asks who sent it (authenticator.Request) and whether they may
// (authorizer.Authorizer). forward.go hands a write that reached a follower to the leader, one hop. dispatch.go finds
// the row of the kind table; there is one dispatcher for all resources, never a route for each. fast.go answers GET,
// LIST and WATCH of JSON with the stored bytes; everything else goes through k8s.io/apiserver's handlers (decode,
// default, admit, patch, apply, managed fields, tables), which call a store: one generic rest.Storage for all kinds,
// driven by the row, whose writes end in Quorum.Propose.
//
// # What holds
//
// A resourceVersion is a revision of the state machine. A read without one is linearizable (Quorum.ReadIndex); "0" is
// answered from this peer at once. Objects taken from the state are shared and immutable: a store copies an object
// before it hands it to code that may change it. A write that met a newer object is tried again on that object, unless
// the client named the resourceVersion it wants to replace.
//
// Leases in kube-node-lease are not replicated: they live in the memory of the leader (leases.go), and every request for
// them is answered there.
package api
