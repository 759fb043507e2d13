package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"

	"mgr/backup"
)

// Paths of snapshots.
const (
	SnapshotPath = "/mgr/v1/snapshot"
	RestorePath  = "/mgr/v1/restore"
)

// RestoreRequest begins a restore.
type RestoreRequest struct {
	ID      string `json:"id"`
	Cluster string `json:"cluster"` // backup.Header.Cluster
	Size    uint64 `json:"size"`    // of fsm.State.WriteSnapshot, in bytes
	Sum     uint64 `json:"sum,string"`
}

// RestoreAnswer is that of every step.
type RestoreAnswer struct {
	Revision uint64 `json:"revision"`
}

// ClusterHeader describes the cluster as it is now.
func ClusterHeader(ctx context.Context, client kubernetes.Interface) (backup.Header, error) {
	var h backup.Header
	return h, get(ctx, client, SnapshotPath+"/header", &h)
}

// SaveSnapshot writes a snapshot of the cluster, unsealed, and checks it on its way. A stale one is of the state that the master
// has which is asked, also when it has no quorum.
func SaveSnapshot(ctx context.Context, client kubernetes.Interface, w io.Writer, stale bool) (backup.Header, error) {
	request := client.Discovery().RESTClient().Get().AbsPath(SnapshotPath)
	if stale {
		request = request.Param("stale", "true")
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return backup.Header{}, err
	}
	defer body.Close()
	h, err := backup.Scan(io.TeeReader(body, w))
	if err != nil {
		return h, fmt.Errorf("the snapshot did not arrive whole: %w", err)
	}
	return h, nil
}

const (
	restorePiece = 1 << 20
	restoreTries = 5
	restorePause = time.Second
)

// RestoreSnapshot puts the state of a snapshot in the place of the cluster's and returns the revision at which that happened. progress is
// told how many bytes are sent. When it fails before the end, the cluster has the state it had.
func RestoreSnapshot(ctx context.Context, client kubernetes.Interface, c *backup.Content, progress func(sent, all uint64)) (uint64, error) {
	var state bytes.Buffer
	if err := c.State.Present().WriteSnapshot(&state); err != nil {
		return 0, err
	}
	payload := state.Bytes()
	r := &restore{client: client, path: RestorePath + "/" + string(uuid.NewUUID())}
	begin := RestoreRequest{ID: r.path[len(RestorePath)+1:], Cluster: c.Header.Cluster, Size: uint64(len(payload)), Sum: xxhash.Sum64(payload)}
	if err := r.begin(ctx, begin); err != nil {
		return 0, err
	}
	for sent := 0; sent < len(payload); {
		piece := payload[sent:min(sent+restorePiece, len(payload))]
		if err := r.send(ctx, sent, piece); err != nil {
			r.abort(ctx)
			return 0, fmt.Errorf("the restore was given up, the cluster has the state it had: %w", err)
		}
		sent += len(piece)
		progress(uint64(sent), uint64(len(payload)))
	}
	return r.commit(ctx)
}

// restore is one on its way.
type restore struct {
	client kubernetes.Interface
	path   string
}

func (r *restore) begin(ctx context.Context, in RestoreRequest) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return r.client.Discovery().RESTClient().Post().AbsPath(RestorePath).SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
}

// send sends a piece, again while there is no leader or too much to do: the same piece may come twice.
func (r *restore) send(ctx context.Context, offset int, piece []byte) error {
	for try := 1; ; try++ {
		err := r.client.Discovery().RESTClient().Put().AbsPath(r.path).Param("offset", strconv.Itoa(offset)).
			SetHeader("Content-Type", "application/octet-stream").Body(piece).Do(ctx).Error()
		if err == nil || try == restoreTries || apierrors.IsConflict(err) || apierrors.IsForbidden(err) || ctx.Err() != nil {
			return err
		}
		pause := time.NewTimer(restorePause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

func (r *restore) commit(ctx context.Context) (uint64, error) {
	result := r.client.Discovery().RESTClient().Post().AbsPath(r.path).Do(ctx)
	var out RestoreAnswer
	switch err := decode(result, &out); {
	case err == nil:
		return out.Revision, nil
	case apierrors.IsConflict(err), apierrors.IsServiceUnavailable(err):
		return 0, fmt.Errorf("the restore was refused, the cluster has the state it had: %w", err)
	default:
		return 0, fmt.Errorf("it is not known whether the restore took place, look at the cluster: %w", err)
	}
}

// abort frees what the masters keep of it; should that fail, they drop it by themselves (fsm.ReplaceAbort).
func (r *restore) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTries*restorePause)
	defer cancel()
	_ = r.client.Discovery().RESTClient().Delete().AbsPath(r.path).Do(ctx).Error()
}
