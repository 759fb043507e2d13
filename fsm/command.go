package fsm

// Verb is what an Op does.
type Verb uint8

const (
	// Create puts an object whose key must be free.
	Create Verb = iota + 1
	// Update replaces an object that must exist and match Op.If.
	Update
	// Delete removes an object that must exist and match Op.If.
	Delete
	// Check changes nothing: the object must exist and match Op.If, else the whole command is refused.
	Check
)

// Key names an object. Resource is the storage resource ("pods", "deployments.apps"); Namespace is empty for
// cluster-scoped kinds. Objects of a resource are ordered by Namespace+"/"+Name (by Name where there is no namespace), as
// Kubernetes lists them.
type Key struct {
	Resource, Namespace, Name string
}

// Precondition limits an Update, Delete or Check. The zero value matches every existing object.
type Precondition struct {
	Revision uint64 // the object's revision; 0 = any
	UID      string // metadata.uid; "" = any
}

// Op is one conditional write.
type Op struct {
	Verb Verb
	Key  Key
	If   Precondition
	// UID of the object that is put, kept beside it so that preconditions need no decoding (Create, Update).
	UID string
	// Data is the object's JSON with an empty metadata.resourceVersion ("resourceVersion":""); RevisionAt is the
	// offset between those two quotes, where apply inserts the decimal revision (Create, Update).
	Data       []byte
	RevisionAt uint32
	// Claims are names that at most one object may hold, such as "clusterip/10.43.0.7" or "nodeport/30080/TCP". They are
	// held from the put until the object is deleted or updated without them. A claim held by another object refuses
	// the command with ReasonClaimed (Create, Update).
	Claims []string
	// Form, if not nil, spares the proposing peer to decode what it has just encoded. It is no part of the log.
	Form Form
}

// Form is the decoded form of an object on its way.
type Form interface {
	// At returns what Object.Decoded is to return on this peer for the object put at revision, nil to leave it to decode. It is
	// called before the object is published, and once for each attempt to put it.
	At(revision uint64) any
}

// Command is a transaction: all of its ops are applied, in order, or none.
type Command struct {
	Actor string // authenticated user name, for history and audit
	Cause string // what asked for it: request path, controller name
	Term  uint64 // leadership term that sent it; 0 = not fenced
	Ops   []Op
}

// Limits, enforced by Encode and again by Apply.
const (
	MaxObjectBytes  = 3 << 20 // one object's Data (the API server refuses larger bodies with 413)
	MaxOps          = 1024    // ops in a command
	MaxCommandBytes = 8 << 20
)

// Reason says why a command was refused.
type Reason uint8

const (
	ReasonNone Reason = iota
	// ReasonExists: Create of a key that is taken.
	ReasonExists
	// ReasonNotFound: Update, Delete or Check of a key that is free.
	ReasonNotFound
	// ReasonConflict: If.Revision or If.UID does not match.
	ReasonConflict
	// ReasonClaimed: a claim is held by another object.
	ReasonClaimed
	// ReasonFenced: Command.Term is not the term of the log entry.
	ReasonFenced
	// ReasonInvalid: malformed command (unknown verb, limits, offset out of range).
	ReasonInvalid
)

// Refusal is the error in a Result whose command changed nothing.
type Refusal struct {
	Reason Reason
	Op     int    // index of the op that failed
	Key    Key    // its key
	Detail string // the claim that is held and by whom, the revision that was found, …; for messages
}

// Result answers one command.
type Result struct {
	// Revision of the state after the command (unchanged state: the revision it was refused at).
	Revision uint64
	// Objects put or removed, one for each op; for Delete the object as it last was, for Check the object found.
	Objects []*Object
	// Refusal is nil when the command was applied.
	Refusal *Refusal
}

// Error makes the refusal usable as an error.
func (r *Refusal) Error() string {
	s := r.Reason.String()
	if r.Key.Name != "" {
		s = r.Key.String() + ": " + s
	}
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	return s
}

// String is a short phrase, for messages.
func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return "applied"
	case ReasonExists:
		return "already exists"
	case ReasonNotFound:
		return "not found"
	case ReasonConflict:
		return "conflict"
	case ReasonClaimed:
		return "claimed"
	case ReasonFenced:
		return "fenced"
	case ReasonInvalid:
		return "invalid"
	}
	return "unknown reason"
}
