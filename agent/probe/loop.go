package probe

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind of a probe.
type Kind string

const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Loop checks one container until its context ends.
type Loop struct {
	Kind    Kind
	Probe   *v1.Probe
	Target  Target
	Started time.Time // of the container: the initial delay counts from here

	// Report is called when the result changes and has passed its threshold. A readiness loop begins as failed, the others
	// as passed or, for startup, unknown. After a passed startup probe or a failed liveness or startup probe, Run returns.
	Report func(ok bool)
	// Unhealthy is told of every single failure, in the words of kubelet's events.
	Unhealthy func(message string)
}

// Run blocks until ctx is done or there is nothing more to find out.
func (l *Loop) Run(ctx context.Context) {
	first := time.NewTimer(time.Until(l.Started.Add(time.Duration(l.Probe.InitialDelaySeconds) * time.Second)))
	defer first.Stop()
	select {
	case <-ctx.Done():
		return
	case <-first.C:
	}
	ticks := time.NewTicker(time.Duration(max(l.Probe.PeriodSeconds, 1)) * time.Second)
	defer ticks.Stop()
	var c counter
	for {
		ok, known := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if known && c.count(ok, l.Probe) {
			if l.settled(ok) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// settled reports a result that passed its threshold, and whether it is the last one.
func (l *Loop) settled(ok bool) bool {
	l.Report(ok)
	switch l.Kind {
	case Readiness:
		return false
	case Startup:
		return true
	}
	return !ok
}

func (l *Loop) once(ctx context.Context) (ok, known bool) {
	var message string
	var err error
	for range tries {
		if ok, message, err = Check(ctx, l.Probe, l.Target); err == nil || ctx.Err() != nil {
			break
		}
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		l.Unhealthy(fmt.Sprintf("%s probe errored and resulted in unknown state: %v", l.Kind, err))
		// What cannot be checked has failed: a command that does not exist never gets better by itself.
		return false, true
	case !ok:
		l.Unhealthy(fmt.Sprintf("%s probe failed: %s", l.Kind, message))
	}
	return ok, err == nil
}

// counter counts equal results in a row.
type counter struct {
	last bool
	run  int32
	told *bool
}

// count reports whether ok has reached its threshold and is news.
func (c *counter) count(ok bool, p *v1.Probe) bool {
	if c.run == 0 || c.last != ok {
		c.last, c.run = ok, 0
	}
	c.run++
	threshold := p.FailureThreshold
	if ok {
		threshold = p.SuccessThreshold
	}
	if c.run < max(threshold, 1) || c.told != nil && *c.told == ok {
		return false
	}
	c.told = &ok
	return true
}
