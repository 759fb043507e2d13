package backup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// sealedMagic is how every file of age begins.
const sealedMagic = "age-encryption.org/"

// ErrSealed: the file is sealed and nothing was given that opens it.
var ErrSealed = errors.New("the file is sealed: give --identity FILE or --passphrase-file FILE")

// Seal wraps w: what is written to the result can be read only with an identity of one of the recipients. Close ends the file,
// not w.
func Seal(w io.Writer, recipients []age.Recipient) (io.WriteCloser, error) {
	out, err := age.Encrypt(w, recipients...)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out, nil
}

// Unseal returns what is in a sealed file, and an unsealed one as it is.
func Unseal(r io.Reader, identities []age.Identity) (plain io.Reader, sealed bool, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(len(sealedMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if string(head) != sealedMagic {
		return in, false, nil
	}
	if len(identities) == 0 {
		return nil, true, ErrSealed
	}
	plain, err = age.Decrypt(in, identities...)
	if err != nil {
		return nil, true, fmt.Errorf("unseal: %w", err)
	}
	return sealedReader{plain}, true, nil
}

// sealedReader puts the errors of age, which all mean that the file is not what was written, into our words.
type sealedReader struct{ r io.Reader }

func (s sealedReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = damaged("unseal: %v", err)
	}
	return n, err
}

// Recipients parses public keys of age (age1…) and the file of a passphrase; both are for Seal. A passphrase stands alone.
func Recipients(keys []string, passphraseFile string) ([]age.Recipient, error) {
	if passphraseFile != "" {
		if len(keys) > 0 {
			return nil, errors.New("seal: use either a passphrase or recipients")
		}
		phrase, err := readPassphrase(passphraseFile)
		if err != nil {
			return nil, err
		}
		r, err := age.NewScryptRecipient(phrase)
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		return []age.Recipient{r}, nil
	}
	var all []age.Recipient
	for _, key := range keys {
		parsed, err := age.ParseRecipients(strings.NewReader(key))
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", key, err)
		}
		all = append(all, parsed...)
	}
	return all, nil
}

// Identities reads identity files (AGE-SECRET-KEY-1…) and the file of a passphrase; all are for Unseal.
func Identities(files []string, passphraseFile string) ([]age.Identity, error) {
	var all []age.Identity
	if passphraseFile != "" {
		phrase, err := readPassphrase(passphraseFile)
		if err != nil {
			return nil, err
		}
		id, err := age.NewScryptIdentity(phrase)
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		all = append(all, id)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		ids, err := age.ParseIdentities(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("identity %s: %w", file, err)
		}
		all = append(all, ids...)
	}
	return all, nil
}

// readPassphrase reads the first line of a file.
func readPassphrase(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", fmt.Errorf("passphrase: %s begins with an empty line", file)
	}
	return line, nil
}
