package api_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/api"
	"mgr/api/apitest"
	"mgr/fsm"
)

// losing is a quorum that carries out writes and then does not know that it did, as a leader that is deposed meanwhile.
type losing struct {
	*api.Bare
	lost bool
}

func (l *losing) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	res, err := l.Bare.Propose(ctx, cmd)
	if err == nil && l.lost {
		return fsm.Result{}, fsm.ErrUnknown
	}
	return res, err
}

// TestUnknownOutcomeIsNotTriedAgain: found by test/sim. A write whose outcome is unknown was tried again when the state had changed
// meanwhile, which the write itself may have done: it was then made twice, or refused with a conflict though it had been made.
func TestUnknownOutcomeIsNotTriedAgain(t *testing.T) {
	var q *losing
	s := apitest.New(t, func(c *api.Config) {
		q = &losing{Bare: c.Quorum.(*api.Bare)}
		c.Quorum = q
	})
	ctx, maps := t.Context(), s.Client.CoreV1().ConfigMaps("default")
	var x *corev1.ConfigMap
	for name, write := range map[string]func() error{
		"update of one version": func() error {
			x.Data = map[string]string{"v": "1"}
			_, err := maps.Update(ctx, x, metav1.UpdateOptions{})
			return err
		},
		"update": func() error {
			_, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string]string{"v": "2"}}, metav1.UpdateOptions{})
			return err
		},
		"patch": func() error {
			_, err := maps.Patch(ctx, "x", types.MergePatchType, []byte(`{"data":{"v":"3"}}`), metav1.PatchOptions{})
			return err
		},
		"delete": func() error { return maps.Delete(ctx, "x", metav1.DeleteOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			q.lost = false
			_ = maps.Delete(ctx, "x", metav1.DeleteOptions{})
			var err error
			if x, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			q.lost = true
			before := q.FSM().State().Revision()
			if err := write(); !apierrors.IsTimeout(err) {
				t.Errorf("answered %v, and should say that the outcome is unknown", err)
			}
			if now := q.FSM().State().Revision(); now != before+1 {
				t.Errorf("the state went from revision %d to %d", before, now)
			}
		})
	}
}
