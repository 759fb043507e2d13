package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/api"
	"mgr/api/join"
	"mgr/backup"
	"mgr/cmd/admin"
	"mgr/failpoint"
	"mgr/fsm"
)

// backups serves snapshots and takes them back, for administrators: whoever may do everything anyhow. A snapshot is served by every master
// and stands for the state after all that was acknowledged before it was asked for. A restore comes in pieces that go to the leader.
type backups struct {
	plane      *Plane
	authorizer authorizer.Authorizer
}

// Extra are the endpoints, by path prefix.
func (b *backups) Extra() map[string]http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+admin.SnapshotPath, b.save)
	mux.HandleFunc("GET "+admin.SnapshotPath+"/header", b.header)
	mux.HandleFunc("POST "+admin.RestorePath, b.begin)
	mux.HandleFunc("PUT "+admin.RestorePath+"/{id}", b.chunk)
	mux.HandleFunc("POST "+admin.RestorePath+"/{id}", b.end(fsm.ReplaceCommit))
	mux.HandleFunc("DELETE "+admin.RestorePath+"/{id}", b.end(fsm.ReplaceAbort))
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := b.mayDoAll(r.Context()); err != nil {
			join.Answer(w, nil, err)
			return
		}
		mux.ServeHTTP(w, r)
	})
	return map[string]http.Handler{admin.SnapshotPath: guarded, admin.RestorePath: guarded}
}

// mayDoAll is nil for users who may do everything with every resource: a snapshot holds all of them, and the cluster's keys.
func (b *backups) mayDoAll(ctx context.Context) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewUnauthorized("who asks is not known")
	}
	decision, _, err := b.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: "*", APIGroup: "*", APIVersion: "*", Resource: "*", ResourceRequest: true,
	})
	if err == nil && decision == authorizer.DecisionAllow {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("%s may not save or restore the cluster: that takes the rights of a cluster administrator (cluster-admin)", u.GetName()),
	}}
}

// Header describes this master's cluster as it is now.
func (p *Plane) Header(state *fsm.State) backup.Header {
	h := backup.Header{
		Cluster: p.cfg.Authority.Hash(), Name: p.cfg.Authority.Cert.Subject.CommonName, Created: time.Now().UTC().Truncate(time.Second),
		Master: p.cfg.ID, Version: api.Version().GitVersion, Epoch: p.node.Epoch(), Term: p.node.CurrentTerm(),
		ServiceCIDR: p.cfg.Services.String(), PodCIDR: p.cfg.Pods.String(),
	}
	for _, m := range p.members() {
		h.Members = append(h.Members, backup.Member{ID: m.ID, Addr: m.Addr})
	}
	h.Describe(state)
	return h
}

// latest is the state after everything that was acknowledged before the call.
func (p *Plane) latest(ctx context.Context) (*fsm.State, error) {
	if err := p.node.ReadIndex(ctx); err != nil {
		return nil, err
	}
	return p.node.FSM().State(), nil
}

// Save writes a snapshot of the cluster, unsealed.
func (p *Plane) Save(ctx context.Context, w io.Writer) (backup.Header, error) {
	state, err := p.latest(ctx)
	if err != nil {
		return backup.Header{}, err
	}
	return p.write(w, state)
}

func (p *Plane) write(w io.Writer, state *fsm.State) (backup.Header, error) {
	keys, err := p.cfg.Authority.Secrets()
	if err != nil {
		return backup.Header{}, err
	}
	h := p.Header(state)
	return h, backup.Write(w, h, keys, state)
}

// saveWait bounds how long a snapshot waits for a leader to confirm the read.
const saveWait = 10 * time.Second

func (b *backups) header(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), saveWait)
	defer cancel()
	state, err := b.plane.latest(ctx)
	if err != nil {
		join.Answer(w, nil, apierrors.NewServiceUnavailable(err.Error()))
		return
	}
	join.Answer(w, b.plane.Header(state), nil)
}

// save sends a snapshot of the latest state, or, with ?stale=true, of this master's, which it has also without a quorum.
func (b *backups) save(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), saveWait)
	defer cancel()
	state, err := b.plane.node.FSM().State(), error(nil)
	if r.URL.Query().Get("stale") != "true" {
		state, err = b.plane.latest(ctx)
	}
	if err != nil {
		join.Answer(w, nil, apierrors.NewServiceUnavailable(err.Error()))
		return
	}
	u, _ := request.UserFrom(r.Context())
	w.Header().Set("Content-Type", "application/octet-stream")
	h, err := b.plane.write(w, state)
	if err != nil {
		b.plane.log.Warn("a snapshot was not sent to its end", "user", u.GetName(), "err", err)
		panic(http.ErrAbortHandler) // so that the client sees a broken answer, not a short one
	}
	b.plane.log.Info("a snapshot was taken, with the cluster's keys", "user", u.GetName(), "revision", h.Revision, "objects", h.Count())
}

func (b *backups) begin(w http.ResponseWriter, r *http.Request) {
	var in admin.RestoreRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&in); err != nil {
		join.Answer(w, nil, apierrors.NewBadRequest("the request body is not as expected: "+err.Error()))
		return
	}
	if own := b.plane.cfg.Authority.Hash(); in.Cluster != own {
		join.Answer(w, nil, conflict(fmt.Sprintf("the snapshot is of another cluster (its CA is %.16s…, this one's %.16s…): restore it into new machines with --data-dir", in.Cluster, own)))
		return
	}
	b.propose(w, r, fsm.ReplaceBegin, fsm.Replacement{ID: in.ID, Size: in.Size, Sum: in.Sum}.Begin())
}

func (b *backups) chunk(w http.ResponseWriter, r *http.Request) {
	offset, err := strconv.ParseUint(r.URL.Query().Get("offset"), 10, 64)
	if err != nil {
		join.Answer(w, nil, apierrors.NewBadRequest("offset: "+err.Error()))
		return
	}
	piece, err := io.ReadAll(http.MaxBytesReader(w, r.Body, fsm.MaxObjectBytes))
	if err != nil {
		join.Answer(w, nil, apierrors.NewBadRequest("reading the piece: "+err.Error()))
		return
	}
	b.propose(w, r, fsm.ReplaceChunk, fsm.Replacement{ID: r.PathValue("id")}.Chunk(offset, piece))
}

func (b *backups) end(kind fsm.Kind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b.propose(w, r, kind, fsm.Replacement{ID: r.PathValue("id")}.End())
	}
}

// propose puts a system command of a replacement through the log and answers with the revision.
func (b *backups) propose(w http.ResponseWriter, r *http.Request, kind fsm.Kind, data []byte) {
	u, _ := request.UserFrom(r.Context())
	node := b.plane.node
	if level := node.FSM().State().Level(); level < fsm.LevelSystem {
		join.Answer(w, nil, conflict(fmt.Sprintf("the cluster is at feature level %d and a restore needs %d: first upgrade every master", level, fsm.LevelSystem)))
		return
	}
	failpoint.Hit("restore.propose.before")
	result, err := node.ProposeSystem(r.Context(), fsm.System{
		Kind: kind, Level: fsm.LevelSystem, Actor: u.GetName(), Cause: "mgr snapshot restore", Data: data,
	})
	failpoint.Hit("restore.propose.after")
	switch {
	case errors.Is(err, fsm.ErrUnknown):
		join.Answer(w, nil, apierrors.NewInternalError(err))
		return
	case err != nil:
		join.Answer(w, nil, apierrors.NewServiceUnavailable(err.Error()))
		return
	case result.Refusal != nil:
		join.Answer(w, nil, conflict(result.Refusal.Error()))
		return
	}
	if kind == fsm.ReplaceCommit {
		b.plane.log.Warn("the state was replaced by that of a snapshot", "user", u.GetName(), "revision", result.Revision)
	}
	join.Answer(w, admin.RestoreAnswer{Revision: result.Revision}, nil)
}

func conflict(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: text,
	}}
}

// untilReplaced is ctx, done also when the whole state is replaced: what was decided of the old one, and what is remembered of it, is
// void, so everything that leads starts anew.
func (p *Plane) untilReplaced(ctx context.Context) (context.Context, context.CancelFunc) {
	replaced := p.node.FSM().Replaced()
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-replaced:
			cancel(errReplaced)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil); wg.Wait() }
}

var errReplaced = errors.New("the state was replaced by that of a snapshot")
