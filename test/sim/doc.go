// Package sim runs whole control planes in virtual time: masters with the real Raft, state machine, API server, informers,
// controllers and scheduler (boot.Assemble), agents and clients that speak HTTP, over a network and disks in memory, each cluster in a
// testing/synctest bubble of its own. A seed decides the workload and what goes wrong; the rules are checked while it runs and at its end.
//
// # What goes wrong
//
// nemesis.go: partitions (one master, one way, bridge, flapping), pauses, crashes that lose what was not synced, planned stops, all
// masters at once, wiped masters, masters added, leadership transfers, snapshots, slow links, lost nodes, disks that are slow, hang, fail a
// sync or are full.
//
// # What is checked
//
//	oracle.go   at one log index all peers have one state hash; at one revision one event; no revision is missing at the end
//	clients.go  an acknowledged write is in the history with its value and revision; one that was refused is not; a read or list
//	            without a resourceVersion shows a state that is not older than anything known when it was asked for
//	watcher.go  a watch, resumed at any master with the last revision seen, has each event once and in order; 410 only where the
//	            master really has no history that far back
//	rules.go    the rules of controllers and scheduler, over every revision of the history, and what must hold once all is well
//	leaders.go  one leader for each term
//	run.go      once all is well writes go on within seconds, and controllers, scheduler and endpoints come to rest as they must
//
// judge_test.go breaks parts on purpose and demands that this is found.
//
// # What a seed does not decide
//
// The order in which goroutines of one bubble run at the same virtual instant. So a seed is a schedule of faults and of work, not an
// exact repetition: a failure may need several runs of its seed to come again (MGR_SEED does that).
package sim
