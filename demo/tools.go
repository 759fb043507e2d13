package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// fetch prints what a URL answers.
func fetch(args []string) int {
	if len(args) == 0 {
		return fail(errors.New("fetch what? Give a URL"))
	}
	times := 1
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return fail(fmt.Errorf("how many times? %w", err))
		}
		times = n
	}
	// Each request on a connection of its own, or a Service would seem to have one backend.
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	code := 0
	for range times {
		if err := fetchOne(client, args[0]); err != nil {
			code = fail(err)
		}
	}
	return code
}

func fetchOne(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	return nil
}

// sleep waits; as process 1 it must take the signal to end itself, since the kernel gives that process no default.
func sleep(args []string) int {
	if len(args) != 1 {
		return fail(errors.New("sleep how long? Give seconds, or infinity"))
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	var over <-chan time.Time
	if args[0] != "infinity" && args[0] != "inf" {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			if d, err = time.ParseDuration(args[0] + "s"); err != nil {
				return fail(fmt.Errorf("sleep how long? %w", err))
			}
		}
		over = time.After(d)
	}
	select {
	case s := <-signals:
		return 128 + int(s.(syscall.Signal))
	case <-over:
		return 0
	}
}

func cat([]string) int {
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		return fail(err)
	}
	return 0
}

func crash(args []string) int {
	code := 1
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return fail(fmt.Errorf("crash with which code? %w", err))
		}
		code = n
	}
	fmt.Fprintln(os.Stderr, "demo: crashing as told, code", code)
	return code
}
