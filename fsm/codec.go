package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// A log entry of format 1 is (of format 2, see level.go)
//
//	version(1) crc32c(4, little endian, of all that follows) { uvarint(len) command }*
//
// and a command is actor, cause, term, count of ops, ops. Strings and data are preceded by their length as uvarint.
// Every op carries every field, so that an op with an unknown verb can still be read past.
const (
	entryVersion = 1
	entryHeader  = 5
)

// Limits on the parts of a command that are not objects; longer ones are refused, Actor and Cause are clipped.
const (
	maxNameBytes  = 512 // resource, namespace, name, claim
	maxUIDBytes   = 128
	maxClaims     = 256 // of one object
	maxCauseBytes = 256 // actor, cause
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A peer that meets one of these in its log must stop applying, or it would diverge from its peers.
var (
	// ErrCorrupt: a log entry or snapshot is damaged.
	ErrCorrupt = errors.New("damaged data")
	// ErrAltered: the objects in memory are not the ones that were applied.
	ErrAltered = errors.New("the state in memory is not what was applied: a fault of this machine's memory or of the program")
	// ErrNewer: a log entry or snapshot is sound and needs a newer version of this program.
	ErrNewer = errors.New("written by a newer version")
)

// EncodeEntry makes a log entry of commands. The error is a *Refusal when a command breaks a limit.
func EncodeEntry(commands []Command) ([]byte, error) {
	encoded := make([][]byte, len(commands))
	for i := range commands {
		b, err := EncodeCommand(&commands[i])
		if err != nil {
			return nil, err
		}
		encoded[i] = b
	}
	return JoinEntry(encoded), nil
}

// EncodeCommand encodes one command for JoinEntry, so that the work of encoding is done by each proposer and not by the
// one goroutine that packs entries. The error is a *Refusal (ReasonInvalid) when the command breaks a limit.
func EncodeCommand(c *Command) ([]byte, error) {
	if r := c.validate(); r != nil {
		return nil, r
	}
	actor, cause := clip(c.Actor), clip(c.Cause)
	size := 4*binary.MaxVarintLen64 + len(actor) + len(cause)
	for i := range c.Ops {
		size += c.Ops[i].encodedBound()
	}
	b := make([]byte, 0, size)
	b = appendString(b, actor)
	b = appendString(b, cause)
	b = binary.AppendUvarint(b, c.Term)
	b = binary.AppendUvarint(b, uint64(len(c.Ops)))
	for i := range c.Ops {
		b = c.Ops[i].append(b)
	}
	if len(b) > MaxCommandBytes {
		return nil, &Refusal{Reason: ReasonInvalid, Key: c.Ops[0].Key,
			Detail: fmt.Sprintf("the command has %d bytes, at most %d are allowed", len(b), MaxCommandBytes)}
	}
	return b, nil
}

// JoinEntry makes a log entry of commands encoded by EncodeCommand. Their results come in the same order. No commands
// make an empty entry, which changes nothing but the index.
func JoinEntry(commands [][]byte) []byte {
	size := entryHeader
	for _, c := range commands {
		size += len(c) + binary.MaxVarintLen32
	}
	b := make([]byte, entryHeader, size)
	for _, c := range commands {
		b = binary.AppendUvarint(b, uint64(len(c)))
		b = append(b, c...)
	}
	b[0] = entryVersion
	binary.LittleEndian.PutUint32(b[1:], crc32.Checksum(b[entryHeader:], castagnoli))
	return b
}

// DecodeEntry reverses EncodeEntry (not EncodeSystem) and checks the checksum. The commands' Data share the entry's memory.
func DecodeEntry(entry []byte) ([]Command, error) {
	var in interner
	return decodeEntry(entry, &in)
}

func decodeEntry(entry []byte, in *interner) ([]Command, error) {
	if len(entry) < entryHeader {
		return nil, fmt.Errorf("log entry of %d bytes: %w", len(entry), ErrCorrupt)
	}
	body := entry[entryHeader:]
	if entry[0] != entryVersion || crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(entry[1:]) {
		return nil, fmt.Errorf("log entry with a wrong checksum: %w", ErrCorrupt)
	}
	var commands []Command
	for r := (reader{b: body}); len(r.b) > 0; {
		cr := reader{b: r.bytes()}
		c := cr.command(in)
		if r.bad || cr.bad || len(cr.b) > 0 {
			return nil, fmt.Errorf("command %d of a log entry does not parse: %w", len(commands), ErrCorrupt)
		}
		commands = append(commands, c)
	}
	return commands, nil
}

func (o *Op) encodedBound() int {
	n := 1 + 9*binary.MaxVarintLen32 + binary.MaxVarintLen64 +
		len(o.Key.Resource) + len(o.Key.Namespace) + len(o.Key.Name) + len(o.If.UID) + len(o.UID) + len(o.Data)
	for _, c := range o.Claims {
		n += len(c) + binary.MaxVarintLen32
	}
	return n
}

func (o *Op) append(b []byte) []byte {
	b = append(b, byte(o.Verb))
	b = appendString(b, o.Key.Resource)
	b = appendString(b, o.Key.Namespace)
	b = appendString(b, o.Key.Name)
	b = binary.AppendUvarint(b, o.If.Revision)
	b = appendString(b, o.If.UID)
	b = appendString(b, o.UID)
	b = binary.AppendUvarint(b, uint64(o.RevisionAt))
	b = binary.AppendUvarint(b, uint64(len(o.Claims)))
	for _, c := range o.Claims {
		b = appendString(b, c)
	}
	return appendString(b, o.Data)
}

func appendString[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func clip(s string) string {
	if len(s) <= maxCauseBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxCauseBytes], "")
}

// validate returns the refusal of a command that breaks a limit.
func (c *Command) validate() *Refusal {
	if len(c.Ops) == 0 || len(c.Ops) > MaxOps {
		return &Refusal{Reason: ReasonInvalid,
			Detail: fmt.Sprintf("a command has 1 to %d writes, this one has %d", MaxOps, len(c.Ops))}
	}
	for i := range c.Ops {
		if detail := c.Ops[i].invalid(); detail != "" {
			return &Refusal{Reason: ReasonInvalid, Op: i, Key: c.Ops[i].Key, Detail: detail}
		}
	}
	return nil
}

// invalid says what is wrong with the op, "" if nothing is.
func (o *Op) invalid() string {
	switch {
	case o.Verb < Create || o.Verb > Check:
		return fmt.Sprintf("unknown verb %d", o.Verb)
	case !validName(o.Key.Resource) || !validName(o.Key.Name):
		return fmt.Sprintf("resource and name must have 1 to %d bytes without a slash", maxNameBytes)
	case o.Key.Namespace != "" && !validName(o.Key.Namespace):
		return fmt.Sprintf("the namespace must have at most %d bytes without a slash", maxNameBytes)
	case len(o.UID) > maxUIDBytes || len(o.If.UID) > maxUIDBytes:
		return fmt.Sprintf("the UID is longer than %d bytes", maxUIDBytes)
	}
	if o.Verb != Create && o.Verb != Update {
		return ""
	}
	if len(o.Data) > MaxObjectBytes {
		return fmt.Sprintf("the object has %d bytes, at most %d are allowed", len(o.Data), MaxObjectBytes)
	}
	at := uint64(o.RevisionAt)
	if at == 0 || at >= uint64(len(o.Data)) || o.Data[at-1] != '"' || o.Data[at] != '"' {
		return fmt.Sprintf("RevisionAt %d is not between the quotes of an empty resourceVersion", at)
	}
	if len(o.Claims) > maxClaims {
		return fmt.Sprintf("the object has %d claims, at most %d are allowed", len(o.Claims), maxClaims)
	}
	for _, c := range o.Claims {
		if c == "" || len(c) > maxNameBytes {
			return fmt.Sprintf("a claim must have 1 to %d bytes", maxNameBytes)
		}
	}
	return ""
}

func validName(s string) bool {
	return s != "" && len(s) <= maxNameBytes && strings.IndexByte(s, '/') < 0
}

// reader reads what the encoder wrote; bad is set, and stays set, when the bytes end early or a number is malformed.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes shares the memory of the input.
func (r *reader) bytes() []byte {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) command(in *interner) Command {
	c := Command{Actor: in.string(r.bytes()), Cause: in.string(r.bytes()), Term: r.uvarint()}
	n := r.uvarint()
	if n > MaxOps {
		r.bad = true
		return c
	}
	c.Ops = make([]Op, 0, min(n, uint64(len(r.b))))
	for range n {
		if r.bad {
			return c
		}
		c.Ops = append(c.Ops, r.op(in))
	}
	return c
}

func (r *reader) op(in *interner) Op {
	o := Op{Verb: Verb(r.byte())}
	o.Key.Resource = in.string(r.bytes())
	_, o.Key.Namespace, o.Key.Name = joinPath(r.bytes(), r.bytes())
	o.If.Revision = r.uvarint()
	o.If.UID = string(r.bytes())
	o.UID = string(r.bytes())
	at := r.uvarint()
	o.RevisionAt = uint32(at)
	n := r.uvarint()
	if uint64(o.RevisionAt) != at || n > uint64(len(r.b)) {
		r.bad = true
		return o
	}
	for range n {
		o.Claims = append(o.Claims, string(r.bytes()))
	}
	o.Data = r.bytes()
	return o
}

// joinPath makes the ordering key of an object; namespace and name are parts of the same string.
func joinPath(namespace, name []byte) (path, ns, n string) {
	if len(namespace) == 0 {
		path = string(name)
		return path, "", path
	}
	b := make([]byte, 0, len(namespace)+1+len(name))
	b = append(append(append(b, namespace...), '/'), name...)
	path = string(b)
	return path, path[:len(namespace)], path[len(namespace)+1:]
}

// interner keeps strings that come again and again (actors, causes, resources) from being allocated each time. It is a
// direct-mapped cache of fixed size, not state.
type interner [256]string

func (in *interner) string(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	slot := &in[crc32.Checksum(b, castagnoli)%uint32(len(in))]
	if *slot != string(b) {
		*slot = string(b)
	}
	return *slot
}
