package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
)

// Patience is how long a client waits for one answer.
const Patience = 5 * time.Second

// Registers are ConfigMaps that are read and written at random masters.
type Registers struct {
	Masters   []kubernetes.Interface
	Namespace string
	Count     int
	Readers   bool // three reads for each write, instead of one
	History   History
}

// Name of a register.
func Name(i int) string { return fmt.Sprintf("r%d", i) }

// Object is a register with a value.
func (r *Registers) Object(i int, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: Name(i), Labels: map[string]string{"register": "true"}},
		Data:       map[string]string{"v": value},
	}
}

// Make creates the registers, empty.
func (r *Registers) Make(ctx context.Context) error {
	for i := range r.Count {
		_, err := r.Masters[i%len(r.Masters)].CoreV1().ConfigMaps(r.Namespace).Create(ctx, r.Object(i, ""), metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("make register %d: %w", i, err)
		}
	}
	return nil
}

// Use reads and writes, one at a time, until ctx ends. A request under way is ended by its answer, not by ctx.
func (r *Registers) Use(ctx context.Context, client int) {
	for n := 0; ctx.Err() == nil; n++ {
		at, reg := r.Masters[rand.IntN(len(r.Masters))], rand.IntN(r.Count)
		o := Op{Client: client, Key: Name(reg), Write: r.writes(), Call: r.History.Now()}
		if o.Write {
			o.Value = fmt.Sprintf("%d-%d", client, n)
		}
		if !r.one(ctx, at, reg, &o) {
			// Nothing happened. A dead master answers at once; give the others the machine.
			cluster.Pause(ctx, 5*time.Millisecond)
			continue
		}
		r.History.Add(o)
	}
}

func (r *Registers) writes() bool {
	if r.Readers {
		return rand.IntN(4) == 0
	}
	return rand.IntN(2) == 0
}

// one carries o out and notes its end; false: nothing happened.
func (r *Registers) one(ctx context.Context, at kubernetes.Interface, reg int, o *Op) bool {
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), Patience)
	defer cancel()
	var got *corev1.ConfigMap
	var err error
	if o.Write {
		got, err = at.CoreV1().ConfigMaps(r.Namespace).Update(ask, r.Object(reg, o.Value), metav1.UpdateOptions{})
	} else {
		got, err = at.CoreV1().ConfigMaps(r.Namespace).Get(ask, o.Key, metav1.GetOptions{})
	}
	o.End = r.History.Now()
	switch {
	case err == nil && o.Write:
		o.Revision = got.ResourceVersion
	case err == nil:
		o.Value, o.Revision = got.Data["v"], got.ResourceVersion
	case !o.Write || Refused(err):
		return false
	default:
		o.Unknown = true
	}
	return true
}

// Refused says that a write was surely not carried out.
func Refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || apierrors.IsConflict(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err)
}
