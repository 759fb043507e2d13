// Package oracle compares mgr's rows (package resource) with Kubernetes itself: the strategies, defaults, validation, warnings,
// printers and selectable fields of k8s.io/kubernetes at the version that mgr serves. It is a module of its own, because
// nothing else may require k8s.io/kubernetes.
//
// Every row of resource.All() is compared, new ones without being named here; a row that Kubernetes has no counterpart for
// fails. Inputs are the golden objects of k8s.io/api, objects from Kubernetes' own fuzzers (fixed seeds), the objects of
// testdata and of resource/testdata, and every mutation of the valid ones that mutate_test.go knows.
//
//	go test -C test/oracle -v ./...                                everything (or: make oracle)
//	go test -C test/oracle -run '/^pods$' -v                       one kind; named resource.group: deployments.apps
//	go test -C test/oracle -run 'TestUpdate/^deployments.apps$' -v one act of one kind
//	go test -C test/oracle -run '/^pods$' -v -all                  every mutation, not a sample of them
//	go test -C test/oracle -run '/^pods$' -v -texts                the texts that differ, too (counted always, failed never)
//
// A difference fails unless explained_test.go gives a reason for it, which docs/compatibility.md has to repeat.
//
// A line of a failure reads: how often, which act, the field path (numbers of elements left out) and cause type that only
// one side has, then one example with the mutation that led there.
package oracle
