// Package controller makes the cluster as it was asked to be: it runs on the leader, reads the informers every master keeps
// warm, and writes through the API like any other client, so that nothing skips admission.
//
// # One shape
//
// A [Controller] is data: a name, the informers it listens to with the way an event becomes keys, the outputs it writes, and
// Reconcile(ctx, key). Every controller of this package follows the same rules:
//
//   - Level-triggered. Reconcile looks at what is, never at what happened; an event only names the key to look at. Running
//     it once more, or from the start on another master, ends in the same state.
//   - Keyed. One key is never reconciled by two workers at once; a key that fails is tried again with its own back-off.
//   - One writer for each field. Outputs are declared, and the runtime refuses to start two controllers that declare the same
//     one. Deleting is a request that any controller may make; it is not an output.
//   - Quiet. A reconcile that finds nothing to change writes nothing: the steady state costs no log entry.
//   - Read your own writes. Informers lag behind the API. Controllers that create or delete objects remember what they
//     did (see ownWrites) and do not decide again before their cache shows it, so a stale cache never makes duplicates.
//   - Plans are pure. What to do is computed by functions of a view, then carried out; tests call the functions.
//
// # Lifetime
//
// [Prepare] is called once, before the informers start, on every master. [Run] is called for each leadership: it adds handlers,
// runs the workers, and on cancellation stops the workers, waits for them and removes the handlers. All memory of a
// leadership dies with it; nothing is carried to the next.
package controller
