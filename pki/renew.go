package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync/atomic"
	"time"
)

// Renewing is a certificate that is replaced while connections use it: every new handshake takes the current one.
type Renewing struct {
	current atomic.Pointer[tls.Certificate]
	renew   func(ctx context.Context, current *tls.Certificate) (*tls.Certificate, error)
	log     *slog.Logger
}

// NewRenewing starts from a valid certificate; renew gets the next one when Run finds that it is time.
func NewRenewing(current *tls.Certificate, log *slog.Logger,
	renew func(ctx context.Context, current *tls.Certificate) (*tls.Certificate, error)) *Renewing {
	r := &Renewing{renew: renew, log: log}
	r.current.Store(current)
	return r
}

// MasterCertificate issues a master's own certificate and keeps renewing it while Run runs; it needs nobody else.
func (a *Authority) MasterCertificate(id Identity, log *slog.Logger) (*Renewing, error) {
	first, err := a.NewTLS(id)
	if err != nil {
		return nil, err
	}
	return NewRenewing(first, log, func(context.Context, *tls.Certificate) (*tls.Certificate, error) {
		return a.NewTLS(id)
	}), nil
}

// Retry bounds between failed renewals.
const (
	renewRetryMin = 10 * time.Second
	renewRetryMax = 10 * time.Minute
)

// Run renews at two thirds of each certificate's life until ctx is done. Failures are retried and logged; the old
// certificate stays in use.
func (r *Renewing) Run(ctx context.Context) {
	wait, retry := time.Until(RenewAt(r.Current().Leaf)), renewRetryMin
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next, err := r.renew(ctx, r.Current())
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			r.log.Warn("certificate was not renewed; trying again", "in", retry, "expires", r.Current().Leaf.NotAfter, "err", err)
			timer.Reset(retry)
			retry = min(2*retry, renewRetryMax)
			continue
		}
		r.current.Store(next)
		r.log.Info("certificate renewed", "name", next.Leaf.Subject.CommonName, "expires", next.Leaf.NotAfter)
		retry = renewRetryMin
		timer.Reset(max(time.Until(RenewAt(next.Leaf)), renewRetryMin))
	}
}

// RenewAt is when a certificate wants to be replaced: at two thirds of its life.
func RenewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)
}

// Current is the certificate in use.
func (r *Renewing) Current() *tls.Certificate { return r.current.Load() }

// GetCertificate serves tls.Config.GetCertificate.
func (r *Renewing) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return r.current.Load(), nil
}

// GetClientCertificate serves tls.Config.GetClientCertificate.
func (r *Renewing) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.current.Load(), nil
}
