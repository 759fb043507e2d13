package auth

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Headers in which a master tells the leader for whom it forwards a request. They count only on a connection whose
// client certificate says O=mgr:masters.
const (
	headerUser        = "X-Remote-User"
	headerUID         = "X-Remote-Uid"
	headerGroup       = "X-Remote-Group"
	headerExtraPrefix = "X-Remote-Extra-"
)

// SetForwarded replaces the identity headers of a request that is handed to another master by u.
func SetForwarded(h http.Header, u user.Info) {
	clearForwarded(h)
	h.Set(headerUser, u.GetName())
	if u.GetUID() != "" {
		h.Set(headerUID, u.GetUID())
	}
	h[headerGroup] = append([]string(nil), u.GetGroups()...)
	for key, values := range u.GetExtra() {
		for _, v := range values {
			h.Add(headerExtraPrefix+escapeKey(key), v)
		}
	}
}

// escapeKey leaves only what is allowed in the name of a header.
func escapeKey(key string) string { return strings.ReplaceAll(url.QueryEscape(key), "+", "%20") }

// takeForwarded removes the identity headers and returns what they say, nil when they name no user.
func takeForwarded(h http.Header) user.Info {
	defer clearForwarded(h)
	name := h.Get(headerUser)
	if name == "" {
		return nil
	}
	return &user.DefaultInfo{Name: name, UID: h.Get(headerUID), Groups: h[headerGroup], Extra: forwardedExtra(h)}
}

func clearForwarded(h http.Header) {
	for name := range h {
		if name == headerUser || name == headerUID || name == headerGroup || strings.HasPrefix(name, headerExtraPrefix) {
			delete(h, name)
		}
	}
}

// forwardedExtra collects the extra headers; keys are lower case and percent-encoded, because header names are neither
// case sensitive nor free in their characters.
func forwardedExtra(h http.Header) map[string][]string {
	var extra map[string][]string
	for name, values := range h {
		rest, ok := strings.CutPrefix(name, headerExtraPrefix)
		if !ok {
			continue
		}
		key := strings.ToLower(rest)
		if decoded, err := url.PathUnescape(key); err == nil {
			key = decoded
		}
		if extra == nil {
			extra = map[string][]string{}
		}
		extra[key] = append(extra[key], values...)
	}
	return extra
}
