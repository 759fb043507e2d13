// Package admin is the client side of what mgr serves beside the Kubernetes API: members of the quorum, join tokens,
// explanations, images on nodes, and the kubeconfig that leads to all of it. The command line and the local cluster use it.
package admin
