// Package cgroup is the one place that knows where cgroups are and how they are written: the trees of cgroup v1, one for each
// controller, and the single tree of v2. A name is a path below their roots ("kubepods/burstable/pod<uid>") and means the same
// in both; limits are given in the units of v1 and translated.
//
// There is no systemd driver: cgroups are directories, as with kubelet's cgroupfs driver. A library would do the same with a
// manager for each cgroup and the root of the host fixed; this needs a root that tests can choose, and eight files.
package cgroup
