package quota

import (
	"context"

	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

// Charge is what a write owes to the quotas of its namespace. Whoever writes puts an empty one into the context of
// admission; the quota plug-in fills it in when a quota counts the object, and the writer settles it together with the write.
type Charge struct {
	Attributes admission.Attributes
	Evaluator  quota.Evaluator
}

// Owed says whether any quota counts the object.
func (c *Charge) Owed() bool { return c != nil && c.Evaluator != nil }

type chargeKey struct{}

// WithCharge returns a context in which admission finds c.
func WithCharge(ctx context.Context, c *Charge) context.Context {
	return context.WithValue(ctx, chargeKey{}, c)
}

// ChargeFrom is the charge to fill in; nil: nobody will settle one.
func ChargeFrom(ctx context.Context) *Charge {
	c, _ := ctx.Value(chargeKey{}).(*Charge)
	return c
}
