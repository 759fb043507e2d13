package agent

import "errors"

var (
	// ErrNoImage: the image is not on this node.
	ErrNoImage = errors.New("the image is not present on this node")
	// ErrNoContainer: no container has this id.
	ErrNoContainer = errors.New("no such container")
)
