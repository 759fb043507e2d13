// Package admission holds what Kubernetes' API server does to, and demands of, objects between authorization and
// storage, beyond their own validation: the built-in admission plug-ins.
//
// All of them are in one list, in New, with the reasons for their order. They read this peer's state through
// auth.Reader and change only the object in the request, so a dry run needs no care; the one exception, Config.NodeRegistered,
// is not called in dry runs.
package admission
