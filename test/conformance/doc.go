// Package conformance pins the official Kubernetes test binary (k8s.io/kubernetes/test/e2e) in a module of its own, so that
// nothing of it reaches the product. `make conformance` builds and runs it.
package conformance
