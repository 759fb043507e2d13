package resource

import (
	"context"
	"time"
)

type timeKey struct{}

// At makes rules that compare with the present take t for it.
func At(ctx context.Context, t time.Time) context.Context {
	return context.WithValue(ctx, timeKey{}, t)
}

// timeOf is the time of a request: now, unless At says otherwise. Only rules that Kubernetes itself ties to the present may
// ask (times of conditions, lifetimes of certificates).
func timeOf(ctx context.Context) time.Time {
	if t, ok := ctx.Value(timeKey{}).(time.Time); ok {
		return t
	}
	return time.Now()
}
