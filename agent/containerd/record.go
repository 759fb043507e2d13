package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mgr/agent"
)

// Labels of a container in containerd's store; with them a restarted agent knows what it is.
const (
	labelPodNamespace = "mgr.io/pod-namespace"
	labelPodName      = "mgr.io/pod-name"
	labelPodUID       = "mgr.io/pod-uid"
	labelName         = "mgr.io/container"
	labelKind         = "mgr.io/kind"
	labelAttempt      = "mgr.io/attempt"
	labelHash         = "mgr.io/hash"
	labelImage        = "mgr.io/image"
	labelImageID      = "mgr.io/image-id"
	labelLogPath      = "mgr.io/log-path"
	labelStopSignal   = "mgr.io/stop-signal"
	labelIO           = "mgr.io/io" // letters: i stdin, o closed after the first attach, t terminal
	labelCgroup       = "mgr.io/cgroup"
	labelUser         = "mgr.io/user" // uid gid group…
)

// kindInfra marks the container that holds a shared PID namespace; agents never see it.
const kindInfra = "infra"

// status is what changes in a container's life, kept in <container directory>/status.json. It is not synced to disk: a
// crash of the machine ends the container too.
type status struct {
	State     agent.ContainerState
	Pid       int
	Started   time.Time
	Finished  time.Time
	ExitCode  int
	Signal    int
	OOMKilled bool
	Error     string
}

func (c *container) labels() map[string]string {
	io := ""
	for letter, on := range map[string]bool{"i": c.stdin, "o": c.stdinOnce, "t": c.tty} {
		if on {
			io += letter
		}
	}
	return map[string]string{
		labelPodNamespace: c.info.Pod.Namespace, labelPodName: c.info.Pod.Name, labelPodUID: c.info.Pod.UID,
		labelName: c.info.Name, labelKind: c.info.Kind, labelAttempt: strconv.Itoa(c.info.Attempt), labelHash: c.info.Hash,
		labelImage: c.info.Image, labelImageID: c.info.ImageID, labelLogPath: c.info.LogPath,
		labelStopSignal: c.stopSignal, labelIO: io, labelCgroup: c.cgroup, labelUser: c.user(),
	}
}

// fromLabels is the inverse of labels.
func fromLabels(id string, l map[string]string, created time.Time) *container {
	c := newContainer(id)
	attempt, _ := strconv.Atoi(l[labelAttempt])
	c.info = agent.Container{
		ID: id, Created: created,
		Pod:  agent.PodRef{Namespace: l[labelPodNamespace], Name: l[labelPodName], UID: l[labelPodUID]},
		Name: l[labelName], Kind: l[labelKind], Attempt: attempt, Hash: l[labelHash],
		Image: l[labelImage], ImageID: l[labelImageID], LogPath: l[labelLogPath], State: agent.ContainerUnknown,
	}
	c.stopSignal, c.cgroup = l[labelStopSignal], l[labelCgroup]
	c.info.User = parseUser(l[labelUser])
	for _, letter := range l[labelIO] {
		switch letter {
		case 'i':
			c.stdin = true
		case 'o':
			c.stdinOnce = true
		case 't':
			c.tty = true
		}
	}
	return c
}

// user and parseUser are inverse; one that is not known is empty.
func (c *container) user() string {
	u := c.info.User
	if u == nil {
		return ""
	}
	return strings.Trim(fmt.Sprint(append([]int64{u.UID, u.GID}, u.Groups...)), "[]")
}

func parseUser(text string) *agent.User {
	var numbers []int64
	for _, f := range strings.Fields(text) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil
		}
		numbers = append(numbers, n)
	}
	if len(numbers) < 2 {
		return nil
	}
	return &agent.User{UID: numbers[0], GID: numbers[1], Groups: numbers[2:]}
}

func (c *container) status() status {
	i := &c.info
	return status{State: i.State, Pid: i.Pid, Started: i.Started, Finished: i.Finished, ExitCode: i.ExitCode,
		Signal: i.Signal, OOMKilled: i.OOMKilled, Error: i.Error}
}

func (c *container) setStatus(s status) {
	i := &c.info
	i.State, i.Pid, i.Started, i.Finished = s.State, s.Pid, s.Started, s.Finished
	i.ExitCode, i.Signal, i.OOMKilled, i.Error = s.ExitCode, s.Signal, s.OOMKilled, s.Error
}

// saveStatus writes the container's status file; the caller holds Runtime.mu or is the only one who knows c.
func (r *Runtime) saveStatus(c *container) error {
	text, err := json.Marshal(c.status())
	if err == nil {
		err = writeFile(filepath.Join(r.layout.container(c.info.ID), "status.json"), text)
	}
	if err != nil {
		return fmt.Errorf("record the state of container %s: %w", c.info.ID, err)
	}
	return nil
}

func (r *Runtime) readStatus(id string) (status, bool) {
	var s status
	text, err := os.ReadFile(filepath.Join(r.layout.container(id), "status.json"))
	return s, err == nil && json.Unmarshal(text, &s) == nil
}

// writeFile replaces a file in one step as other processes see it.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}
