package api

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// query reads the options of a stream; it keeps the first error.
type query struct {
	url.Values
	err error
}

func (q *query) flag(name string) bool {
	v := q.Get(name)
	if v == "" {
		return q.Has(name)
	}
	on, err := strconv.ParseBool(v)
	q.fail(name, v, err)
	return on
}

func (q *query) number(name string) *int64 {
	v := q.Get(name)
	if v == "" {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	q.fail(name, v, err)
	return &n
}

func (q *query) time(name string) *metav1.Time {
	v := q.Get(name)
	if v == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, v)
	q.fail(name, v, err)
	return &metav1.Time{Time: t}
}

func (q *query) fail(name, value string, err error) {
	if err != nil && q.err == nil {
		q.err = apierrors.NewBadRequest(fmt.Sprintf("the query parameter %s=%q is not valid: %v", name, value, err))
	}
}

func logOptions(values url.Values) (*corev1.PodLogOptions, error) {
	q := query{Values: values}
	o := &corev1.PodLogOptions{
		Container: q.Get("container"), Follow: q.flag("follow"), Previous: q.flag("previous"), Timestamps: q.flag("timestamps"),
		SinceSeconds: q.number("sinceSeconds"), SinceTime: q.time("sinceTime"), TailLines: q.number("tailLines"), LimitBytes: q.number("limitBytes"),
	}
	return o, q.err
}

// streamOptions are what exec and attach have in common.
type streamOptions struct {
	container                  string
	command                    []string
	stdin, stdout, stderr, tty bool
}

func readStreamOptions(values url.Values) (streamOptions, error) {
	q := query{Values: values}
	o := streamOptions{
		container: q.Get("container"), command: values["command"],
		stdin: q.flag("stdin"), stdout: q.flag("stdout"), stderr: q.flag("stderr"), tty: q.flag("tty"),
	}
	return o, q.err
}
