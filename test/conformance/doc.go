// Package conformance pins the official Kubernetes test binary (k8s.io/kubernetes/test/e2e) in a module of its own, so that
// nothing of it reaches the product. `make conformance` builds it and runs it through the command in run; testdata names the
// conformance tests (all.txt, from k8s.io/kubernetes/test/conformance/testdata) and those that must pass now (api.txt).
package conformance
