package auth

import (
	"net/http"
	"strconv"
)

// discoveryMaxAge is how long, in seconds, relying parties may keep the documents.
const discoveryMaxAge = 3600

// Documents are the handlers of DiscoveryPath and JWKSPath, by path. The documents never change while a master runs.
func (t *Tokens) Documents() (map[string]http.Handler, error) {
	discovery, err := t.Discovery()
	if err != nil {
		return nil, err
	}
	keys, err := t.JWKS()
	if err != nil {
		return nil, err
	}
	return map[string]http.Handler{
		DiscoveryPath: document(DiscoveryPath, "application/json", discovery),
		JWKSPath:      document(JWKSPath, "application/jwk-set+json", keys),
	}, nil
}

// document serves body at exactly path.
func document(path, mediaType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != path:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		default:
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("Cache-Control", "public, max-age="+strconv.Itoa(discoveryMaxAge))
			_, _ = w.Write(body) // a client that went away is its own affair
		}
	})
}
