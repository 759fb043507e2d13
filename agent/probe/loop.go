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

const (
	firstAgain = 50 * time.Millisecond
	settling   = time.Second // after a container's start, in which a failure makes no event
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
	// Event is told of every single failure of a regular check after the container's first second ("Unhealthy"), and of
	// warnings ("ProbeWarning"), in the words of kubelet's events.
	Event func(reason, message string)
	// Checked is told the outcome of every check: successful, failed or unknown. nil: nobody counts.
	Checked func(outcome string)
}

// Run blocks until ctx is done or there is nothing more to find out.
func (l *Loop) Run(ctx context.Context) {
	delay := time.Duration(l.Probe.InitialDelaySeconds) * time.Second
	// The start of a container that was adopted is read from the clock on the wall, which may have jumped since.
	first := time.NewTimer(min(time.Until(l.Started.Add(delay)), delay))
	defer first.Stop()
	select {
	case <-ctx.Done():
		return
	case <-first.C:
	}
	period := time.Duration(max(l.Probe.PeriodSeconds, 1)) * time.Second
	ticks := time.NewTicker(period)
	defer ticks.Stop()
	again := l.sooner()
	defer again.Stop()
	var c counter
	extra := false
	for wait := firstAgain; ; {
		ok, known := l.once(ctx, extra)
		if ctx.Err() != nil {
			return
		}
		if known && (ok || !extra) && c.count(ok, l.Probe) {
			if l.settled(ok) {
				return
			}
		}
		if ok || wait >= period {
			again.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			extra = false
		case <-again.C:
			extra = true
			wait *= 2
			again.Reset(wait)
		}
	}
}

// sooner is the timer of a readiness probe's extra checks. A program listens some milliseconds after its start, just too late for
// the first check, and should not wait a whole period for the next: until it has been ready once it is asked after 50 ms, 100 ms
// and so on, up to the period.
func (l *Loop) sooner() *time.Timer {
	t := time.NewTimer(firstAgain)
	if l.Kind != Readiness {
		t.Stop()
	}
	return t
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

// once checks. Failures of extra checks, and those of a program that has hardly started, are nobody's news. A check that could not
// be made says nothing of the container.
func (l *Loop) once(ctx context.Context, extra bool) (ok, known bool) {
	var result Result
	var message string
	var err error
	for range tries {
		if result, message, err = Check(ctx, l.Probe, l.Target); err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() == nil && l.Checked != nil {
		l.Checked(outcome(result, err))
	}
	quiet := ctx.Err() != nil || extra || time.Since(l.Started) < settling
	switch {
	case quiet:
	case err != nil:
		l.Event("Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %v", l.Kind, err))
	case result == Failure:
		l.Event("Unhealthy", fmt.Sprintf("%s probe failed: %s", l.Kind, message))
	case result == Warning:
		l.Event("ProbeWarning", fmt.Sprintf("%s probe warning: %s", l.Kind, message))
	}
	return err == nil && result != Failure, err == nil
}

func outcome(r Result, err error) string {
	switch {
	case err != nil:
		return "unknown"
	case r == Failure:
		return "failed"
	}
	return "successful"
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
