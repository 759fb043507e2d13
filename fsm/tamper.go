//go:build failpoints

package fsm

// Tamper changes an object as if an entry had been applied wrongly, for tests of what notices: the state stays one in itself, and
// differs from that of the peers.
func (f *FSM) Tamper() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, t := range f.w.tables {
		for _, o := range t.objects.Values() {
			wrong := &Object{
				Key: o.Key, UID: o.UID, Revision: o.Revision, Created: o.Created + 1, Data: o.Data, RevisionAt: o.RevisionAt, Claims: o.Claims, path: o.path,
			}
			wrong.hash = wrong.sum()
			f.w.replace(at, wrong, o)
			f.w.mark()
			f.publish()
			return
		}
	}
}
