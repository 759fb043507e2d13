package raftnodetest

// Where the files of a peer are on its simulated disk. They are small, so that tests see many of them.
const (
	Dir       = "/raft"
	FileBytes = 256 << 10
)

// Crash ends a peer with a simulated disk as a power cut does: nothing that it does any more has an effect, and what it had not
// synced is lost as its disk decides. Start starts it again.
func (c *Cluster) Crash(p *Peer) { c.end(p, p.Disk.Crash) }

// Kill ends a peer with a simulated disk as kill -9 does: what it wrote is there.
func (c *Cluster) Kill(p *Peer) { c.end(p, p.Disk.Kill) }

func (c *Cluster) end(p *Peer, how func()) {
	c.t.Helper()
	c.network.remove(p.Addr)
	how()
	_ = p.Node.Close() // its disk is gone, which it says
}
