package agent

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
)

func TestBacklogTakesWhatNobodyReadsYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		b := newBacklog()
		done := make(chan struct{})
		go func() { defer close(done); b.fill(r) }()
		sent := bytes.Repeat([]byte("0123456789abcdef"), backlogSize/16)
		if _, err := w.Write(sent); err != nil { // nobody reads, and yet it goes
			t.Fatal(err)
		}
		more := make(chan struct{})
		go func() {
			defer close(more)
			for range 4 {
				if _, err := w.Write(sent); err != nil {
					t.Error(err)
				}
			}
			w.Close()
		}()
		synctest.Wait()
		select {
		case <-more:
			t.Error("the backlog has no end")
		default:
		}
		var got bytes.Buffer
		if n, err := b.WriteTo(&got); err != nil || n != int64(5*len(sent)) || !bytes.Equal(got.Bytes(), bytes.Repeat(sent, 5)) {
			t.Errorf("%d bytes came, %v", n, err)
		}
		<-done
		<-more
	})
}

func TestBacklogEndsWithEitherSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		b := newBacklog()
		done := make(chan struct{})
		go func() { defer close(done); b.fill(r) }()
		go func() { // more than fits: fill waits
			for range 3 {
				_, _ = w.Write(make([]byte, backlogSize))
			}
		}()
		synctest.Wait()
		b.close()
		r.CloseWithError(errors.New("broken off"))
		<-done
		if n, err := b.WriteTo(io.Discard); n != 0 || err != nil {
			t.Errorf("after the end: %d, %v", n, err)
		}
	})
}
