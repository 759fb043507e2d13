package backup

import (
	"errors"
	"fmt"
	"time"

	"mgr/fsm"
)

// Header says what a file holds. Index, and Revision to Bytes, follow from the state; Write fills them in.
type Header struct {
	Cluster string    `json:"cluster"` // pki.Trust.Hash of the cluster's CA
	Name    string    `json:"name"`    // common name of the CA, for people
	Created time.Time `json:"created"`
	Master  string    `json:"master"` // that wrote it
	Version string    `json:"version"`
	Members []Member  `json:"members"`

	Epoch       uint64 `json:"epoch"` // of the quorum; see raftnode
	Index       uint64 `json:"index"` // of the log
	Term        uint64 `json:"term"`
	ServiceCIDR string `json:"serviceCIDR"`
	PodCIDR     string `json:"podCIDR"`

	Revision uint64         `json:"revision"`
	Hash     string         `json:"hash"`    // fsm.State.Hash as mgr members prints it
	Objects  map[string]int `json:"objects"` // by resource
	Bytes    int64          `json:"bytes"`   // of the objects' JSON
}

// Member is a master at the time of the snapshot.
type Member struct {
	ID   string `json:"id"`
	Addr string `json:"address"`
}

// Count is the number of all objects.
func (h *Header) Count() int {
	n := 0
	for _, c := range h.Objects {
		n += c
	}
	return n
}

// Describe fills in what follows from the state.
func (h *Header) Describe(s *fsm.State) {
	h.Index, h.Revision, h.Hash, h.Bytes = s.Index(), s.Revision(), fmt.Sprintf("%016x", s.Hash()), 0
	h.Objects = map[string]int{}
	for _, resource := range s.Resources() {
		for o := range s.Resource(resource).List("", "") {
			h.Objects[resource]++
			h.Bytes += int64(len(o.Data))
		}
	}
}

// ErrDamaged: the file is not what was written: cut, altered, or no snapshot file at all.
var ErrDamaged = errors.New("the snapshot file is damaged")
