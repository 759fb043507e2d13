package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// pause holds a PID namespace until it is told to end, and reaps the orphans that the kernel gives to process 1.
func pause() {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	for s := range signals {
		if s != unix.SIGCHLD {
			return
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
		}
	}
}
