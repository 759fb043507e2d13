// Package failpoint names the moments at which a process is most worth killing.
//
// Code calls Hit or Err at such a moment. In the program that users run both are empty and inlined: they cost nothing. In
// one that was built with the tag failpoints (make bin/mgr-failpoints) a test says what shall happen there, by the
// environment or, in a process that runs, by a file:
//
//	MGR_FAILPOINTS       from the start on, e.g. "log.sync.before=hang:2s,log.sync.after=error:EIO@3"
//	MGR_FAILPOINTS_FILE  the same, in a file that is read at the start and again within milliseconds when it changes. A relative
//	                     path belongs to the working directory, so that all masters of `mgr up`, each of which runs in a
//	                     directory of its own, can share one environment.
//
// What can happen at a point:
//
//	kill          the process kills itself with SIGKILL: nothing is flushed, closed or said
//	hang:2s       the caller waits; hang alone: for ever
//	error:EIO     Err returns the error of that name (EIO, ENOSPC, EPIPE) or, for other words, an error that says them; Hit ignores it
//	… @3          at the third time the point is reached, once; hang and error without @ happen every time
//
// A kill happens once: the file is removed before, so that the process's successor lives. Beside the file appear FILE.fired, with
// a line for each thing that happened, and FILE.seen, with a line for each point when a process reaches it first: a test
// can show which points were reached.
//
// The same file sets two more things, which are no points:
//
//	clock=+1h     the wall clock of this process is off by so much from now on; timers are not (amd64 only)
//
// Number makes bounds that take long to reach, such as the entries after which a snapshot is taken, small for a test.
//
// A name is a few words joined by dots: what is acted on, the act, and before or after.
package failpoint
