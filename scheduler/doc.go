// Package scheduler decides which node each pod runs on.
//
// # Contract
//
// Schedule(view, pods) → decisions, view' is a function: no clock, no randomness, no I/O. A View is an immutable picture
// of the nodes and of what their pods request; the returned one has the new pods in it. Every pod is either given a node
// on which it fits, or refused with a Refused that counts, for all nodes, why not, in kube-scheduler's words. Equal nodes
// take turns. Pods that ask for other pods (affinity, anti-affinity, spread constraints), and those that other pods keep
// away, take a way of their own (field, scan), so that all others pay nothing for it.
//
// One goroutine, the loop of Run, owns everything that changes: the view, the queue, what has been assumed. Informer
// handlers and finished binds only post to it. It schedules in batches: pods of the same class (same requests, selectors,
// tolerations, ports, owner; and labels, where pods ask for others) share one look at all nodes, and a batch is bound
// with one call of Config.Bind. A pod counts on its node from the decision on; when the bind fails it is taken off again
// and tried later.
//
// Goroutines: the loop, one for each bind in flight (at most maxInFlight), and reporters that write refusals to the API.
// Run returns when all of them have ended and its informer handlers are removed.
//
// A refused pod is parked until something happens that may help it: a node comes or changes in what was in the way, or a
// pod goes, or comes when it waits for others. It then waits out its back-off (1 s, doubled up to 10 s). Pods whose
// spec.schedulerName is another's and pods with scheduling gates are left alone.
package scheduler
