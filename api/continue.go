package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apiserver/pkg/storage"

	"mgr/fsm"
)

// tokenLife is how long the pages of a list can be asked for after the first. History is bounded by its size, and could keep
// an idle resource's past for days; clients rely on old tokens to expire, as they do in Kubernetes after five to ten minutes.
const tokenLife = 5 * time.Minute

// tokenPrefix is what storage's continue tokens want keys to begin with.
const tokenPrefix = "/"

// continueToken is the place where a page begins. It has the fields of Kubernetes' own token, and the time of the first page:
// so every master can tell when it expires.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`              // that the list is of; -1: whatever is the newest
	Start    string `json:"start"`           // key, and a zero byte after the last one seen
	Began    int64  `json:"began,omitempty"` // seconds since 1970
}

func encodeToken(t continueToken) (string, error) {
	t.Version = "meta.k8s.io/v1"
	text, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(text), nil
}

// decodeToken leaves the judgment of form and key to Kubernetes' own decoder.
func decodeToken(token string) (continueToken, error) {
	key, rv, err := storage.DecodeContinue(token, tokenPrefix)
	if err != nil {
		return continueToken{}, err
	}
	t := continueToken{}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return t, err
	}
	t.Start, t.Revision = strings.TrimPrefix(key, tokenPrefix), rv
	return t, nil
}

// expired says whether it is too late to go on at now.
func (t continueToken) expired(now time.Time) bool {
	return t.Began != 0 && now.Sub(time.Unix(t.Began, 0)) > tokenLife
}

// continued finds the state and the place that a continue token names.
func (st *store) continued(ctx context.Context, q Quorum, options *internalversion.ListOptions, namespace string) (listFrom, error) {
	t, err := decodeToken(options.Continue)
	if err != nil {
		return listFrom{}, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
	}
	if options.ResourceVersion != "" && options.ResourceVersion != "0" {
		return listFrom{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	after := strings.TrimSuffix(t.Start, "\x00")
	if namespace != "" {
		after = namespace + "/" + after
	}
	if t.Revision < 0 { // asks for the rest of an expired list as it is now
		if err := st.s.reached(ctx, q, ""); err != nil {
			return listFrom{}, err
		}
		return listFrom{view: q.FSM().State().Resource(st.row.Storage()), after: after}, nil
	}
	if t.expired(time.Now()) {
		return listFrom{}, expiredToken(t)
	}
	if err := st.s.reached(ctx, q, strconv.FormatInt(t.Revision, 10)); err != nil {
		return listFrom{}, err
	}
	v, err := q.FSM().StateAt(st.row.Storage(), uint64(t.Revision))
	if errors.Is(err, fsm.ErrCompacted) {
		return listFrom{}, expiredToken(t)
	}
	if err != nil {
		return listFrom{}, tooOld(uint64(t.Revision), q)
	}
	return listFrom{view: v, after: after, began: time.Unix(t.Began, 0)}, nil
}

// expiredToken tells a client how to go on with a list whose state is gone.
func expiredToken(t continueToken) error {
	const text = "The provided continue parameter is too old to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing " +
		"with the provided token results in an inconsistent list - objects that were created, modified, or deleted between " +
		"the time the first chunk was returned and now may show up in the list."
	token, err := encodeToken(continueToken{Start: t.Start, Revision: -1})
	if err != nil {
		return apierrors.NewResourceExpired("The provided continue parameter is too old; start the list again without it.")
	}
	e := apierrors.NewResourceExpired(text)
	e.ErrStatus.ListMeta.Continue = token
	return e
}
