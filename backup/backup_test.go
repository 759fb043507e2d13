package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"mgr/fsm"
	"mgr/pki"
)

// state is a state machine with n ConfigMaps and a claim.
func state(t testing.TB, n int) *fsm.State {
	t.Helper()
	machine := fsm.New(fsm.Options{})
	for i := range n {
		name := fmt.Sprintf("cm-%d", i)
		head := fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"shop","uid":"uid-%d","resourceVersion":"`, name, i)
		op := fsm.Op{
			Verb: fsm.Create, Key: fsm.Key{Resource: "configmaps", Namespace: "shop", Name: name}, UID: fmt.Sprintf("uid-%d", i),
			Data: []byte(head + `"},"data":{"k":"` + strings.Repeat("v", 50) + `"}}`), RevisionAt: uint32(len(head)),
		}
		if i == 0 {
			op.Claims = []string{"clusterip/10.43.0.7"}
		}
		entry, err := fsm.EncodeEntry([]fsm.Command{{Ops: []fsm.Op{op}}})
		if err != nil {
			t.Fatal(err)
		}
		results, err := machine.Apply(uint64(10+i), 3, entry)
		if err != nil || results[0].Refusal != nil {
			t.Fatal(err, results)
		}
	}
	return machine.State()
}

func keys(t testing.TB) (pki.Secrets, string) {
	t.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Secrets()
	if err != nil {
		t.Fatal(err)
	}
	return s, a.Hash()
}

func file(t testing.TB, n int) []byte {
	t.Helper()
	secrets, hash := keys(t)
	h := Header{
		Cluster: hash, Name: "mgr-ca@1", Created: time.Unix(1_700_000_000, 0).UTC(), Master: "master-1", Version: "v1",
		Members: []Member{{"master-1", "192.0.2.1:6443"}}, Term: 3, ServiceCIDR: "10.43.0.0/16", PodCIDR: "10.42.0.0/16",
	}
	var b bytes.Buffer
	if err := Write(&b, h, secrets, state(t, n)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, n := range []int{0, 1, 20_000} {
		b := file(t, n)
		h, err := Inspect(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		c, err := Load(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if scanned, err := Scan(bytes.NewReader(b)); err != nil || scanned.Hash != h.Hash {
			t.Errorf("scan: %+v, %v", scanned, err)
		}
		want := state(t, n)
		if h.Revision != want.Revision() || h.Hash != fmt.Sprintf("%016x", want.Hash()) || h.Count() != n || h.Index != want.Index() {
			t.Errorf("of %d objects the header says %+v", n, h)
		}
		if c.State.Hash() != want.Hash() || c.Header.Master != "master-1" || len(c.Keys.CAKey) == 0 {
			t.Errorf("of %d objects Load returned %+v", n, c.Header)
		}
		if holder, ok := c.State.Claim("clusterip/10.43.0.7"); n > 0 && (!ok || holder.Name != "cm-0") {
			t.Errorf("the claim is held by %v", holder)
		}
	}
}

// Every byte altered, every length: never taken for whole.
func TestEveryAlteredByteAndEveryCutIsDetected(t *testing.T) {
	b := file(t, 3)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		if _, err := Load(bytes.NewReader(bad)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d of %d altered: %v", i, len(b), err)
		}
		if _, err := Scan(bytes.NewReader(bad)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d of %d altered, on its way: %v", i, len(b), err)
		}
		for what, read := range map[string]func([]byte) error{
			"load": func(b []byte) error { _, err := Load(bytes.NewReader(b)); return err },
			"scan": func(b []byte) error { _, err := Scan(bytes.NewReader(b)); return err },
		} {
			if err := read(b[:i]); !errors.Is(err, ErrDamaged) {
				t.Fatalf("cut after %d of %d bytes, %s: %v", i, len(b), what, err)
			}
		}
	}
	if _, err := Load(bytes.NewReader(append(bytes.Clone(b), 'x'))); !errors.Is(err, ErrDamaged) {
		t.Fatalf("with a byte behind its end: %v", err)
	}
	t.Logf("%d altered bytes and as many cuts", len(b))
}

func TestFilesThatLie(t *testing.T) {
	secrets, hash := keys(t)
	other, _ := keys(t)
	mixed := secrets
	mixed.CAKey = other.CAKey
	for name, c := range map[string]struct {
		header Header
		keys   pki.Secrets
	}{
		"another cluster's keys":         {Header{Cluster: strings.Repeat("0", 64)}, secrets},
		"keys that belong to no one":     {Header{Cluster: hash}, pki.Secrets{}},
		"a CA key of another CA":         {Header{Cluster: hash}, mixed},
		"no object of the name it holds": {Header{Cluster: hash}, secrets},
	} {
		s := state(t, 1)
		if name == "no object of the name it holds" {
			s = misnamed(t)
		}
		var b bytes.Buffer
		if err := Write(&b, c.header, c.keys, s); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(&b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(err)
		}
	}
}

// misnamed holds an object whose JSON names another one.
func misnamed(t *testing.T) *fsm.State {
	machine := fsm.New(fsm.Options{})
	head := `{"metadata":{"name":"b","resourceVersion":"`
	entry, err := fsm.EncodeEntry([]fsm.Command{{Ops: []fsm.Op{{
		Verb: fsm.Create, Key: fsm.Key{Resource: "nodes", Name: "a"}, Data: []byte(head + `"}}`), RevisionAt: uint32(len(head)),
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := machine.Apply(1, 1, entry); err != nil {
		t.Fatal(err)
	}
	return machine.State()
}

func TestSealed(t *testing.T) {
	plain := file(t, 3)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := Recipients([]string{id.Recipient().String()}, "")
	if err != nil {
		t.Fatal(err)
	}
	sealed := seal(t, plain, recipients)
	if bytes.Contains(sealed, []byte("PRIVATE KEY")) || bytes.Contains(sealed, []byte("shop")) {
		t.Fatal("a sealed file shows what is in it")
	}
	if _, _, err := Unseal(bytes.NewReader(sealed), nil); !errors.Is(err, ErrSealed) {
		t.Errorf("without a key: %v", err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Unseal(bytes.NewReader(sealed), []age.Identity{stranger}); err == nil {
		t.Error("a stranger's key opened the file")
	}
	identity := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(identity, []byte("# mine\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ids, err := Identities([]string{identity}, "")
	if err != nil {
		t.Fatal(err)
	}
	load := func(b []byte) error {
		r, _, err := Unseal(bytes.NewReader(b), ids)
		if err != nil {
			return err
		}
		_, err = Load(r)
		return err
	}
	if err := load(sealed); err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if load(bad) == nil {
			t.Fatalf("byte %d of the sealed file flipped: not noticed", i)
		}
		if load(sealed[:i]) == nil {
			t.Fatalf("the sealed file cut after %d bytes: not noticed", i)
		}
	}
}

func TestSealedByPassphrase(t *testing.T) {
	dir := t.TempDir()
	phrase, wrong := filepath.Join(dir, "phrase"), filepath.Join(dir, "wrong")
	for path, text := range map[string]string{phrase: "correct horse\r\nignored\n", wrong: "battery\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	recipients, err := Recipients(nil, phrase)
	if err != nil {
		t.Fatal(err)
	}
	sealed := seal(t, []byte("hello"), recipients)
	for path, good := range map[string]bool{phrase: true, wrong: false} {
		ids, err := Identities(nil, path)
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := Unseal(bytes.NewReader(sealed), ids)
		if (err == nil) != good {
			t.Errorf("with the passphrase in %s: %v", path, err)
		}
		if err == nil {
			if b, err := io.ReadAll(r); err != nil || string(b) != "hello" {
				t.Errorf("unsealed %q, %v", b, err)
			}
		}
	}
	if _, err := Recipients([]string{"age1x"}, phrase); err == nil {
		t.Error("a passphrase and a recipient together were taken")
	}
}

func seal(t *testing.T, plain []byte, recipients []age.Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Seal(&b, recipients)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzInspect: no bytes make the reader panic, and only a whole file loads.
func FuzzInspect(f *testing.F) {
	whole := file(f, 2)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(magic + "\x01h"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Inspect(bytes.NewReader(b)); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		if _, err := Load(bytes.NewReader(b)); err == nil && !bytes.Equal(b, whole) {
			// Another whole file can only be one that was written: its checksums are right.
			if h, err := Inspect(bytes.NewReader(b)); err != nil {
				t.Fatalf("%+v: %v", h, err)
			}
		}
	})
}
