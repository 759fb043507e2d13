//go:build failpoints

package fsm

// Tamper changes an object as if an entry had been applied wrongly, for tests of what notices: the state stays one in itself, and
// differs from that of the peers. It is the object that was not written for longest, because the next write to it would
// make the states equal again, perhaps before anybody compares.
func (f *FSM) Tamper() {
	f.mu.Lock()
	defer f.mu.Unlock()
	table, oldest := 0, (*Object)(nil)
	for at, t := range f.w.tables {
		for _, o := range t.objects.Values() {
			if oldest == nil || o.Revision < oldest.Revision {
				table, oldest = at, o
			}
		}
	}
	if oldest == nil {
		return
	}
	wrong := &Object{
		Key: oldest.Key, UID: oldest.UID, Revision: oldest.Revision, Created: oldest.Created + 1, Data: oldest.Data, RevisionAt: oldest.RevisionAt,
		Claims: oldest.Claims, path: oldest.path,
	}
	wrong.hash = wrong.sum()
	f.w.replace(table, wrong, oldest)
	f.w.mark()
	f.publish()
}
