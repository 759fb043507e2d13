// Package evict decides when a node is short of something and which pod has to go for it. It is pure: thresholds, observations and
// what pods use go in, conditions, victims and the words for them come out. Order, texts and defaults are Kubernetes'.
package evict

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that a node can be short of, as flags call it.
type Signal string

// The signals. AllocatableMemory is what pods together may still take, watched with the threshold of Memory.
const (
	Memory            Signal = "memory.available"
	AllocatableMemory Signal = "allocatableMemory.available"
	NodeFs            Signal = "nodefs.available"
	NodeFsInodes      Signal = "nodefs.inodesFree"
	ImageFs           Signal = "imagefs.available"
	ImageFsInodes     Signal = "imagefs.inodesFree"
	ContainerFs       Signal = "containerfs.available"
	ContainerFsInodes Signal = "containerfs.inodesFree"
	PID               Signal = "pid.available"
)

// Resources that have no name in Kubernetes' API.
const (
	inodes v1.ResourceName = "inodes"
	pids   v1.ResourceName = "pids"
)

// meanings says what a signal is about.
var meanings = map[Signal]struct {
	resource  v1.ResourceName
	condition v1.NodeConditionType
}{
	Memory:            {v1.ResourceMemory, v1.NodeMemoryPressure},
	AllocatableMemory: {v1.ResourceMemory, v1.NodeMemoryPressure},
	NodeFs:            {v1.ResourceEphemeralStorage, v1.NodeDiskPressure},
	NodeFsInodes:      {inodes, v1.NodeDiskPressure},
	ImageFs:           {v1.ResourceEphemeralStorage, v1.NodeDiskPressure},
	ImageFsInodes:     {inodes, v1.NodeDiskPressure},
	ContainerFs:       {v1.ResourceEphemeralStorage, v1.NodeDiskPressure},
	ContainerFsInodes: {inodes, v1.NodeDiskPressure},
	PID:               {pids, v1.NodePIDPressure},
}

// Resource is what is reclaimed when the signal's threshold is met.
func (s Signal) Resource() v1.ResourceName { return meanings[s].resource }

// OnDisk says that files have to go.
func (s Signal) OnDisk() bool { return meanings[s].condition == v1.NodeDiskPressure }

// DefaultHard are Kubernetes' hard thresholds.
func DefaultHard() map[string]string {
	return map[string]string{
		string(Memory): "100Mi", string(NodeFs): "10%", string(NodeFsInodes): "5%", string(ImageFs): "15%", string(ImageFsInodes): "5%",
	}
}

// Amount is a quantity, or a share of the capacity.
type Amount struct {
	Quantity *resource.Quantity
	Share    float64 // of 1; counts when Quantity is nil
}

// Of is the amount for a capacity.
func (a Amount) Of(capacity *resource.Quantity) *resource.Quantity {
	if a.Quantity != nil {
		q := a.Quantity.DeepCopy()
		return &q
	}
	return resource.NewQuantity(int64(float64(capacity.Value())*a.Share), resource.BinarySI)
}

// Threshold is met when less than Value is available.
type Threshold struct {
	Signal     Signal
	Value      Amount
	Grace      time.Duration // how long it may be met before pods are evicted; 0: a hard threshold
	MinReclaim Amount        // beyond Value, that must be available before it counts as not met again
}

// Hard says that nobody gets a grace.
func (t Threshold) Hard() bool { return t.Grace == 0 }

// Config is what the command line says.
type Config struct {
	Hard, Soft, SoftGrace, MinReclaim map[string]string // by signal; Hard nil: DefaultHard
	MaxPodGrace                       time.Duration     // for pods evicted by a soft threshold
	Transition                        time.Duration     // how long a condition stays after the last time that it was seen; 0: 5 m
	Every                             time.Duration     // how often the node is looked at; 0: 10 s
}

const (
	// DefaultTransition is Kubernetes' --eviction-pressure-transition-period.
	DefaultTransition = 5 * time.Minute
	// DefaultEvery is how often kubelet looks.
	DefaultEvery = 10 * time.Second
)

// Thresholds reads the configuration. Errors name the flag and what it may say.
func (c Config) Thresholds() ([]Threshold, error) {
	hard := c.Hard
	if hard == nil {
		hard = DefaultHard()
	}
	grace, reclaim := map[Signal]time.Duration{}, map[Signal]Amount{}
	for _, name := range slices.Sorted(maps.Keys(c.SoftGrace)) {
		d, err := time.ParseDuration(c.SoftGrace[name])
		if err != nil || d <= 0 || meanings[Signal(name)].condition == "" {
			return nil, fmt.Errorf("--eviction-soft-grace-period %s=%s: use a signal of --eviction-soft and a time, as memory.available=90s", name, c.SoftGrace[name])
		}
		grace[Signal(name)] = d
	}
	for _, name := range slices.Sorted(maps.Keys(c.MinReclaim)) {
		amount, _, err := parse("--eviction-minimum-reclaim", name, c.MinReclaim[name])
		if err != nil {
			return nil, err
		}
		reclaim[Signal(name)] = amount
	}
	var out []Threshold
	for _, flag := range []struct {
		name string
		of   map[string]string
	}{{"--eviction-hard", hard}, {"--eviction-soft", c.Soft}} {
		for _, name := range slices.Sorted(maps.Keys(flag.of)) {
			t := Threshold{Signal: Signal(name), MinReclaim: reclaim[Signal(name)]}
			amount, off, err := parse(flag.name, name, flag.of[name])
			if err != nil {
				return nil, err
			}
			if off {
				continue
			}
			t.Value = amount
			if flag.name == "--eviction-soft" {
				if t.Grace = grace[t.Signal]; t.Grace == 0 {
					return nil, fmt.Errorf("--eviction-soft %s=%s: say in --eviction-soft-grace-period how long it may last, as %[1]s=90s", name, flag.of[name])
				}
			}
			out = append(out, t)
			if t.Signal == Memory && t.Hard() {
				t.Signal = AllocatableMemory
				out = append(out, t)
			}
		}
	}
	return out, nil
}

// parse reads an amount; off: 0% and 100% switch a threshold off.
func parse(flag, signal, text string) (a Amount, off bool, err error) {
	if s := Signal(signal); meanings[s].condition == "" || s == AllocatableMemory {
		return a, false, fmt.Errorf("%s %s=%s: there is no such signal: use %s", flag, signal, text, signals())
	}
	wrong := fmt.Errorf("%s %s=%s: use a quantity above 0, as 100Mi, or a share, as 10%%", flag, signal, text)
	if share, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(share, 64)
		if err != nil || n < 0 || n > 100 {
			return a, false, wrong
		}
		return Amount{Share: n / 100}, n == 0 || n == 100, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() <= 0 && flag != "--eviction-minimum-reclaim" || q.Sign() < 0 {
		return a, false, wrong
	}
	return Amount{Quantity: &q}, false, nil
}

func signals() string {
	var names []string
	for s := range meanings {
		if s != AllocatableMemory {
			names = append(names, string(s))
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Reserved is what the hard thresholds keep free, which pods therefore cannot have.
func Reserved(thresholds []Threshold, capacity v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for _, t := range thresholds {
		if !t.Hard() || t.Signal != Memory && t.Signal != NodeFs {
			continue
		}
		if have, ok := capacity[t.Signal.Resource()]; ok {
			out[t.Signal.Resource()] = *t.Value.Of(&have)
		}
	}
	return out
}
